"""What ``/predict`` and ``/classify`` answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.schemas.base import Response
from app.schemas.predict import AbstainReason, NoAnswer


class LabelScore(Response):
    """A label with its probability (list-valued fields: its own, not summing to 1)."""

    label: str
    score: float


class EntityChange(Response):
    """An entity that a document changes: its score, and that ``without`` it. 0: not found."""

    text: str
    type: str
    start: int
    end: int
    score: float
    without: float


class Influence(Response):
    """What the answer would be without this document: removed from the hits, no refill.

    ``delta``: by how much the answered label's probability would fall; ``flips``: whether another
    label would be answered (list-valued fields: another set of labels). qa: the same of the
    likeliest answer and a passage. ner: ``delta`` is the largest change of an entity's score,
    ``flips`` whether other entities would be found, ``entities`` those that change. A generated
    text: ``delta`` is its log-probability (nats) with the document less that without, ``flips``
    whether another token would be the likeliest somewhere in it. A quoted answer: ``delta`` is the
    share of its support that goes, ``flips`` whether something else is quoted.
    """

    delta: float
    flips: bool
    entities: list[EntityChange] | None = None


class FlipSet(Response):
    """A smallest set of cited documents with the answer, without which another label is answered.

    ``exact``: no smaller set of them does it; otherwise none can be taken out of it.
    """

    doc_ids: list[str]
    label: str | None
    exact: bool


class Citation(Response):
    """A document that the answer rests on; ``weight`` says how much it moved the answer."""

    doc_id: str
    rank: int
    title: str | None = None
    text: str
    start: int | None = None
    end: int | None = None
    label: str | list[str] | None = None
    metadata: dict[str, Any]
    scores: dict[str, float]
    weight: float
    influence: Influence | None = None
    erased: bool | None = Field(None, description="The document was erased since.")


class GeneratorInfoBody(Response):
    """The server's generator, whether it made this answer or not."""

    name: str
    sha256: str


class ModelInfoBody(Response):
    """The checkpoint that answered."""

    name: str
    version: str
    sha256: str
    generator: GeneratorInfoBody | None = None


class IndexInfoBody(Response):
    """The index state that answered."""

    name: str
    generation: str | int
    sequence: int


class Usage(Response):
    """What was read."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    retrieved: int
    used: int


class Timing(Response):
    """Milliseconds of each part; of the slowest input where there are several."""

    queue: float
    retrieve: float
    predict: float
    total: float


class LabelOutput(Response):
    """The output of classification and sentiment."""

    label: str | None
    scores: list[LabelScore]
    labels: list[str] | None = None


class EntityBody(Response):
    """An entity: `text[start:end]` in code points, and the probability of exactly this span."""

    text: str
    type: str
    start: int
    end: int
    score: float


class EntitiesOutput(Response):
    """The output of ner, in the order of the text."""

    entities: list[EntityBody]


class PossibleAnswer(Response):
    """Another answer to a question; where it stands, and its share of the probability."""

    answer: str
    doc_id: str | None
    start: int
    end: int
    score: float


class AnswerOutput(Response):
    """The output of question answering.

    ``start`` and ``end`` count code points of the text of the document ``doc_id``, or of the
    ``context`` that came with the question (``doc_id`` null). ``reason`` says why nothing is
    answered: the likeliest answers stand in ``alternatives``. ``unreadable``: the encoder's
    vocabulary covers too little of the question, or of each passage.
    """

    answer: str | None
    answerable: bool
    doc_id: str | None = None
    start: int | None = None
    end: int | None = None
    score: float | None = None
    alternatives: list[PossibleAnswer]
    reason: NoAnswer | None = None


class SentenceBody(Response):
    """A sentence of a generated text, `text[start:end]`, and the ranks of what it rests on.

    The server compares it with the retrieved text; the model is not asked.
    """

    start: int
    end: int
    citations: list[int]
    supported: bool


class GeneratedOutput(Response):
    """What was generated; `length`: as many tokens as were allowed."""

    finish_reason: Literal["stop", "length"]
    sentences: list[SentenceBody]


class TextOutput(GeneratedOutput):
    """The output of generation."""

    text: str


class MessageBody(Response):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str


class MessageOutput(GeneratedOutput):
    """The output of dialogue."""

    message: MessageBody


class Ablation(Response):
    """The same model's answer with retrieval off, under no threshold."""

    output: LabelOutput
    confidence: float
    changed: bool


class Item(Response):
    """The answer to one input; with ``error`` instead where that input alone was bad."""

    index: int
    confidence: float | None = None
    calibrated: bool | None = None
    support: float | None = None
    abstained: bool | None = None
    abstain_reason: AbstainReason | None = None
    citations: list[Citation] | None = None
    flip_set: FlipSet | None = None
    ablation: Ablation | None = None
    error: dict[str, Any] | None = None


class PredictItem(Item):
    """An answer of ``/predict``."""

    output: LabelOutput | AnswerOutput | EntitiesOutput | TextOutput | MessageOutput | None = None


class ReplayCheck(Response):
    """How far a replayed answer is from the first: the largest difference of a probability."""

    equal: bool
    difference: float


class Answers(Response):
    """What both routes answer, beside `data`."""

    id: str
    created: int
    usage: Usage
    timing_ms: Timing
    degraded: list[str]
    warnings: list[str]
    replay: ReplayCheck | None = None


class PredictResponse(Answers):
    """The answer of ``POST /predict``."""

    object: Literal["prediction"]
    task: str = Field(description="As in the request.")
    model: ModelInfoBody
    index: IndexInfoBody
    data: list[PredictItem]


class ClassifyItem(Item):
    """An answer of ``/classify``."""

    label: str | None = None
    labels: list[str] | None = None
    probs: list[float] | None = None
    num_classes: int | None = None
    scores: list[LabelScore] | None = None


class ClassifyResponse(Answers):
    """The answer of ``POST /classify``."""

    object: Literal["list"]
    model: str
    data: list[ClassifyItem]
    model_info: ModelInfoBody
    index_info: IndexInfoBody
