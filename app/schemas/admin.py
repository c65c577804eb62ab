"""Bodies of ``/admin``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.base import Name, Request, Response, Version
from app.schemas.pretrain import LanguageModelBody


class TrainRetrieval(Request):
    """How hits are found for training rows."""

    k: Annotated[int, Field(ge=1, le=100)] | None = None
    exclude_self: Literal[True] = True


class TrainRequest(Request):
    """A request to ``POST /admin/train``. What is left out is chosen by the number of rows."""

    task: Literal["classification", "sentiment", "qa", "ner"] = "classification"
    field: Name | None = Field(
        None, description="The label field; left out, the task's own. Not with qa and ner."
    )
    dataset: Annotated[str, Field(pattern=r"^ds_[0-9a-f]{24}$")] | None = Field(
        None,
        description="An uploaded set to learn from, which qa needs; null: the labelled documents, "
        "for ner those with `metadata.entities`.",
    )
    base: Version | None = None
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    retrieval: TrainRetrieval = TrainRetrieval()
    holdout: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.1
    activate: Literal["never", "if_better", "always"] = "if_better"
    margin: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.0,
        description="With `if_better`: by how much the figure (accuracy, F1) may be worse, "
        "surely (one-sided 90 %). 0: it has to be better.",
    )


class ReindexRequest(Request):
    """A request to ``POST /admin/reindex``. Unchanged vectors are taken over in both modes."""

    mode: Literal["full", "incremental"] = "full"
    analyzer: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="What is made of words: `standard` (stems, without stop words), `unstemmed` or "
        "`all-words` (neither). null: that of the index that serves, which keeps to it.",
    )
    encoder: Annotated[str, Field(min_length=1, max_length=1_000)] | None = Field(
        None,
        description="Another base encoder, a folder or a hub id: it goes live with the generation "
        "that holds its vectors, and with the newest checkpoint that was trained over it.",
    )
    activate: bool | Literal["never", "if_better", "always"] = Field(
        True,
        description="true is `always`, false `never`. `if_better`: an index of another encoder "
        "or analyzer goes live only when a paired test on labelled documents says so.",
    )
    field: Name = Field("label", description="With `if_better`: the label field to test on.")
    margin: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.0, description="With `if_better`: by how much accuracy may be worse, surely (90 %)."
    )


class EvaluateRequest(Request):
    """A request to ``POST /admin/evaluate``."""

    field: Name = "label"
    limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    k: Annotated[int, Field(ge=1, le=100)] | None = None
    held_out: bool = True


class AuditRequest(Request):
    """A request to ``POST /admin/audit-labels``."""

    field: Name = "label"
    limit: Annotated[int, Field(ge=1, le=5_000)] = Field(500, description="Findings at most.")
    folds: Annotated[int, Field(ge=2, le=10)] = 5
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class AuditPair(Response):
    """The probabilities of the label that stands and of the one that is suggested."""

    label: float
    suggested: float


class Contradiction(Response):
    """A neighbour with another label; ``weight`` is its share in the neighbours' vote."""

    doc_id: str
    label: str
    text: str | None
    similarity: float
    weight: float


class AuditFinding(Response):
    """A label that is probably wrong. ``score`` is 0.5 where the suggested one is as likely.

    ``state``: `open`, `dismissed`, `corrected` (the label is another one now), or `gone`.
    """

    rank: int
    doc_id: str
    text: str | None
    label: str
    suggested: str
    score: float
    head: AuditPair
    neighbours: AuditPair
    contradicting: list[Contradiction]
    state: Literal["open", "dismissed", "corrected", "gone"]


class AuditPage(Response):
    """A page of what an audit found, worst first."""

    audit_id: str
    field: str
    documents: int
    total: int
    findings: list[AuditFinding]
    next_offset: int | None


class AuditCorrection(Request):
    """A document whose label is to change; without ``label``, to the suggested one."""

    doc_id: Name
    label: Name | None = None


class AuditDecision(Request):
    """A request to ``POST /admin/audit-labels/{audit_id}``."""

    correct: Annotated[list[AuditCorrection], Field(max_length=500)] = []
    dismiss: Annotated[list[Name], Field(max_length=500)] = Field(
        [], description="Labels that are right: not shown again until they change."
    )


class AuditDecided(Response):
    """What was done; ``sequence`` is that of the last correction."""

    corrected: int
    dismissed: int
    sequence: int


class Progress(Response):
    """How far a job is; ``step`` and ``total`` count within ``stage``."""

    step: int
    total: int | None
    eta_s: float | None
    stage: str | None = None
    loss: float | None = None


class JobBody(Response):
    """A job. Times are seconds since 1970."""

    id: str
    type: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
    progress: Progress
    result: dict[str, Any] | None
    problem: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None
    params: dict[str, Any]


class JobList(Response):
    """All jobs that are remembered, the newest first."""

    jobs: list[JobBody]


class ModelBody(Response):
    """A checkpoint with the reports of its heads; ``problem`` says why it cannot be used."""

    version: str
    active: bool
    shipped: bool
    problem: str | None
    created: str | None = None
    encoder: dict[str, Any] | None = None
    fields: list[str] = []
    heads: dict[str, Any] = {}


class ModelReport(Response):
    """A checkpoint's reports by head, and the decision of the gate with its figures if known."""

    version: str
    active: bool
    created: str | None
    heads: dict[str, Any]
    gate: dict[str, Any] | None
    job_id: str | None


class ModelDeleted(Response):
    """Which checkpoint is gone."""

    version: str


class ModelList(Response):
    """All checkpoints."""

    models: list[ModelBody]
    active: str
    language_models: list[LanguageModelBody] = []


class Activated(Response):
    """What serves now."""

    version: str
    sha256: str


class IndexBody(Response):
    """A generation that is kept."""

    generation: int
    active: bool
    sequence: int | None
    documents: int | None
    passages: int | None
    vectors: bool
    analyzer: str | None
    created: float | None
    problem: str | None


class IndexList(Response):
    """All generations, and what was written since the one that serves."""

    indexes: list[IndexBody]
    generation: int
    sequence: int


class IndexActivated(Response):
    """Which generation serves now."""

    generation: int
    sequence: int


class SampleDeleted(Response):
    """How many sample documents were taken out."""

    deleted: int
    sequence: int


class KeyRequest(Request):
    """A request to ``POST /admin/keys``."""

    scope: Literal["predict", "write", "admin"]
    name: Annotated[str, Field(max_length=256)] = ""


class KeyBody(Response):
    """A key as it may be shown: ``id`` is the SHA-256 digest of it."""

    id: str
    name: str
    scope: Literal["open", "predict", "write", "admin"]
    created: float | None
    source: Literal["store", "environment"]


class KeyList(Response):
    """All keys. ``open``: there are none, and everybody on this machine may do everything."""

    keys: list[KeyBody]
    open: bool


class KeyMade(Response):
    """A key that was just made; it is not shown again."""

    key: str
    scope: Literal["predict", "write", "admin"]
