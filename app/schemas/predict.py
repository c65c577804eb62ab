"""Requests to ``/predict`` and ``/classify``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import JsonDict

from app.schemas.base import FilterBody, Id, Method, Name, Probability, Request
from index_data.roles import EvidenceRole

Explain = Literal["citations", "influence", "ablation"]
# A bad item gets an error in its place, so the items are checked one by one later.
Inputs = str | Annotated[list[Any], Field(min_length=1, max_length=32)]


TEXTS: list[JsonDict] = [
    {"type": "string"},
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 32},
]
OneText: JsonDict = {"anyOf": [*TEXTS]}
TextsOrQuestions: JsonDict = {
    "anyOf": [
        *TEXTS,
        {
            "type": "object",
            "properties": {"question": {"type": "string"}, "context": {"type": "string"}},
            "required": ["question"],
            "additionalProperties": False,
            "description": "For `qa`: with `context` this text is read instead of the index.",
        },
        {
            "type": "object",
            "properties": {
                "messages": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 100,
                    "items": {
                        "type": "object",
                        "properties": {
                            "role": {"enum": ["system", "user", "assistant"]},
                            "content": {"type": "string"},
                        },
                        "required": ["role", "content"],
                    },
                }
            },
            "required": ["messages"],
            "additionalProperties": False,
            "description": "For `dialogue`: turns that alternate, the user's last.",
        },
    ]
}


class ProvidedDocument(Request):
    """A document that comes with the request (``mode`` = ``provided``)."""

    id: Id
    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    title: Annotated[str, Field(max_length=1_000)] | None = None
    label: Name | None = None
    entities: Annotated[list[dict[str, Any]], Field(max_length=1_000)] | None = Field(
        None, description="For the task `ner`: `{start, end, type}` in code points of the text."
    )


class Retrieval(Request):
    """Where the evidence comes from."""

    mode: Literal["index", "provided", "off"] = "index"
    method: Method | None = Field(None, description="Default: the index's own default.")
    k: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="Documents to retrieve. Default: what the head was fitted with."
    )
    filter: FilterBody | None = None
    evidence: EvidenceRole | None = Field(
        None,
        description="Which documents of the index are evidence: `examples` (labelled; of a label "
        "field those that carry it), `knowledge` (the others), or `all`; a document says otherwise "
        "with `metadata.role`, `example` or `knowledge`. Default: `examples` for "
        "`classification`, `sentiment` and `ner` (sentences with `metadata.entities`, whatever is "
        "asked), else `knowledge` where there is any, else `all`.",
    )
    exclude_ids: Annotated[list[Id], Field(max_length=1_000)] = []
    min_sequence: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Answer from an index that holds this write, waiting for it if need be."
    )
    documents: Annotated[list[ProvidedDocument], Field(max_length=100)] | None = None


class Abstain(Request):
    """Under which values no label is given. Default: the server's own, which are 0 unless set."""

    min_confidence: Probability | None = None
    min_support: Probability | None = None


NoAnswer = Literal[
    "closed_book",
    "no_words",
    "unreadable",
    "nothing_found",
    "not_in_passages",
    "low_confidence",
    "low_support",
]
AbstainReason = Literal["no_evidence", "low_support", "low_confidence"]


class Pin(Request):
    """The model and the index state that have to answer; ``pin-unavailable`` if they are gone."""

    model_sha256: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    index_sequence: Annotated[int, Field(ge=0)] | None = None


Labels = Annotated[list[Name], Field(min_length=1, max_length=1_000)]


StopString = Annotated[str, Field(min_length=1, max_length=256)]


class Params(Request):
    """Parameters of a task. What concerns text generation has no effect on classification."""

    top_n: Annotated[int, Field(ge=1, le=1_000)] = 5
    labels: Labels | None = Field(
        None, description="Only these labels (or entity types) may be answered."
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4_096)] = 64
    temperature: Annotated[float, Field(ge=0, le=2)] = 0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    stop: Annotated[list[StopString], Field(max_length=16)] = []


class TaskRequest(Request):
    """A request to a task; `app.predict.tasks` restricts it to the tasks that there are."""

    task: str
    input: Inputs | dict[str, Any] = Field(json_schema_extra=TextsOrQuestions)
    field: Name | None = Field(
        None,
        description="The label field to predict (`ner`: the head). Default: `label`; for sentiment "
        "and ner the task's own name.",
    )
    retrieval: Retrieval = Retrieval()
    params: Params = Params()
    explain: Annotated[list[Explain], Field(max_length=3)] = ["citations"]
    abstain: Abstain = Abstain()
    pin: Pin = Pin()
    stream: bool = False


class ClassifyRequest(Request):
    """A request to ``POST /classify``: what vLLM's clients send, and more."""

    model: Name | None = None
    input: Inputs = Field(json_schema_extra=OneText)
    field: Name = "label"
    retrieval: Retrieval = Retrieval()
    labels: Labels | None = Field(None, description="Only these labels may be answered.")
    explain: Annotated[list[Explain], Field(max_length=3)] = ["citations"]
    abstain: Abstain = Abstain()
