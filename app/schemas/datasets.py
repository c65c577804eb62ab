"""Bodies of ``/admin/datasets``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.base import Request, Response

Kind = Literal["squad", "conll", "spans", "classification", "text"]
SetName = Annotated[str, Field(max_length=256)]


class DatasetRequest(Request):
    """A small dataset as one JSON body; longer ones come as NDJSON."""

    kind: Kind | None = Field(None, description="The rows' shape. Default: that of the first.")
    name: SetName = ""
    rows: Annotated[list[Any], Field(min_length=1, max_length=100_000)]


class DatasetBody(Response):
    """A stored dataset; ``labels`` counts its labels or the types of its entities."""

    id: str
    name: str
    kind: Kind
    task: Literal["classification", "qa", "ner", "pretrain"]
    rows: int
    labels: dict[str, int]
    created: float
    bytes: int
    sha256: str


class Rejected(Response):
    """A row that was not taken, and why."""

    line: int
    pointer: str
    detail: str


class DatasetMade(DatasetBody):
    """What became of an upload; the first 1,000 rejections are listed."""

    rejected: list[Rejected]
    rejected_count: int


class DatasetList(Response):
    """All datasets, the newest first."""

    datasets: list[DatasetBody]


class DatasetDeleted(Response):
    """Which dataset is gone."""

    id: str
    deleted: bool
