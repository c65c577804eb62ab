"""Bodies of ``/documents``, ``/search``, ``/analyze`` and ``/feedback``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from app.schemas.base import FilterBody, Method, Name, Request, Response
from index_data.documents import DocumentFields

LanguageTag = Annotated[str, Field(min_length=2, max_length=35)]


@with_config(extra="forbid")
class Document(DocumentFields):
    """A document as it is sent."""


@with_config(extra="forbid")
class Documents(TypedDict):
    """Documents in one body; each is checked alone."""

    documents: list[Document]


def always(schema: dict[str, Any]) -> None:
    """A document that is read has every field; ``label`` where it has one."""
    schema["required"] = [name for name in schema["properties"] if name != "label"]


@with_config(extra="forbid", json_schema_extra=always)
class DocumentBody(DocumentFields):
    """A document as it is read."""

    sequence: Required[int]


class DocumentPage(Response):
    """A page of documents, oldest write first."""

    documents: list[DocumentBody]
    next_cursor: str | None
    total: int
    sequence: int


class Rejection(Response):
    """A document that was not taken: its line (from 1) and why."""

    line: int
    pointer: str
    detail: str


class WriteResponse(Response):
    """What became of documents that were sent."""

    # Filled in while an import goes on; an answer has every field.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    accepted: int = 0
    created: int = 0
    updated: int = 0
    rejected: list[Rejection] = []
    rejected_count: int = 0
    ids: list[str] = []
    sequence: int = 0
    warnings: list[str] = []


class DeleteRequest(Request):
    """A request to ``POST /documents:delete``."""

    filter: FilterBody
    dry_run: bool = False


class ErasedPredictions(Response):
    """Predictions that a document was taken out of."""

    memory: int
    stored: int


class Receipt(Response):
    """What was erased with a document, and what derived from it.

    ``generations`` were made before the erasure and go when ``reindex_job`` has built another;
    ``checkpoints`` were trained on it (``checkpoints_unknown`` do not say); ``running_jobs`` may
    have read it. Counts are of rows; ``training_sets`` and jobs are ids.
    """

    id: str
    doc_id: str
    sequence: int
    erased: float
    document: bool
    vectors: int
    feedback: int
    predictions: ErasedPredictions
    snapshots: int
    training_sets: list[str]
    generations: list[int]
    reindex_job: str | None
    checkpoints: list[str]
    checkpoints_unknown: list[str]
    running_jobs: list[str]


class DeleteResponse(Response):
    """What was deleted, or would be."""

    deleted: int
    dry_run: bool
    sequence: int
    receipt: Receipt | None = None


class AnalyzeRequest(Request):
    """A request to ``POST /analyze``."""

    text: str
    lang: LanguageTag | None = None


class TokenBody(Response):
    """One token; ``start`` and ``end`` count code points of the text that was sent."""

    text: str
    start: int
    end: int
    stop: bool
    stem: str


class AnalyzeResponse(Response):
    """What preprocessing makes of a text, by the analyzer of the index that serves."""

    lang: str
    analyzer: str
    tokens: list[TokenBody]
    warnings: list[str]


class SearchRequest(Request):
    """A request to ``POST /search``."""

    query: str
    k: Annotated[int, Field(ge=1, le=100)] = 10
    method: Method | None = None
    filter: FilterBody | None = None
    highlight: bool = True
    exclude_ids: Annotated[list[Name], Field(max_length=1_000)] = []
    min_sequence: Annotated[int, Field(ge=0)] | None = None
    lang: LanguageTag | None = None


class Highlight(Response):
    """A place of ``text`` that matches the query."""

    start: int
    end: int


class SearchHit(Response):
    """A document that was found, by its best passage."""

    doc_id: str
    rank: int
    score: float
    scores: dict[str, float]
    text: str
    start: int
    end: int
    title: str | None
    labels: dict[str, str | list[str]]
    metadata: dict[str, Any]
    highlights: list[Highlight]


class SearchResponse(Response):
    """The answer of ``POST /search``."""

    hits: list[SearchHit]
    method: Method
    generation: str | int
    sequence: int
    timing_ms: float
    degraded: list[str]


class EntityGiven(Request):
    """A named entity: code points ``start`` to ``end`` of the text that feedback is about."""

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    type: Annotated[Name, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]


class AnswerGiven(Request):
    """The right answer; with ``doc_id`` the place is in that document, else in the text itself."""

    text: Annotated[str, Field(max_length=10_000)] = Field(
        description="Empty: there is no answer to it."
    )
    start: Annotated[int, Field(ge=0)] | None = None
    end: Annotated[int, Field(ge=1)] | None = None
    doc_id: Name | None = None


class FeedbackRequest(Request):
    """A request to ``POST /feedback``: about a prediction, or about a text of one's own."""

    prediction_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    index: Annotated[int, Field(ge=0, le=31)] | None = Field(
        None, description="Which input of the prediction. Default: the first."
    )
    input: str | None = None
    correct: bool | None = Field(
        None, description="Whether the prediction was right. Default: false when a label is given."
    )
    label: Name | None = None
    field: Name | None = None
    entities: Annotated[list[EntityGiven], Field(max_length=1_000)] | None = Field(
        None, description="All named entities of the text; an empty list says there are none."
    )
    answer: AnswerGiven | None = None
    apply: Literal["record", "index"] = Field(
        "record", description="`index`: the corrected example is a document from now on."
    )
    preview: bool = Field(False, description="Only show what would change; write nothing.")
    impact: bool | None = Field(
        None,
        description="Also tell which recent predictions change. Default: only with `preview`.",
    )


class Verdict(Response):
    """A label with its confidence, before or after."""

    label: str | None
    confidence: float | None


class Conflict(Response):
    """An earlier correction of the same text that differs; ``created`` in seconds of 1970."""

    id: str
    label: str | None
    created: float


class ChangedPrediction(Response):
    """What is answered to one input of a recent prediction without the correction and with it."""

    prediction_id: str
    index: int
    before: Verdict
    after: Verdict


class Impact(Response):
    """Which recent predictions a correction changes.

    ``checked`` inputs were asked again, the nearest of the ``of`` that are kept of the field.
    """

    checked: int
    of: int
    changed: list[ChangedPrediction]


class FeedbackResponse(Response):
    """The answer of ``POST /feedback``."""

    id: str | None
    doc_id: str | None
    sequence: int
    before: Verdict | None
    after: Verdict | None
    changed: list[str]
    conflicts: list[Conflict] = Field(
        [], description="Earlier corrections that say otherwise; the newest counts."
    )
    impact: Impact | None = None
    warnings: list[str] = []


class UndoResponse(Response):
    """The answer of ``DELETE /feedback/{id}``."""

    id: str
    doc_id: str | None
    sequence: int
