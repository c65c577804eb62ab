"""What all bodies have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Request(BaseModel):
    """A request body: unknown fields and values of another type are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Response(BaseModel):
    """An answer. Fields may be added later, so clients must not forbid what they do not know."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Method = Literal["bm25", "dense", "hybrid"]
FilterBody = dict[str, Any]


class FieldErrorBody(Response):
    """One wrong place."""

    pointer: str
    detail: str


class ProblemBody(Response):
    """RFC 9457 problem details."""

    model_config = ConfigDict(
        extra="allow",
        title="Problem",
        json_schema_extra={
            "example": {
                "type": "/problems/validation",
                "title": "The request is not valid",
                "status": 422,
                "detail": "The request is not valid.",
                "errors": [{"pointer": "#/retrieval/k", "detail": "at most 100"}],
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str | None = None
    retry_after: int | None = None
    errors: list[FieldErrorBody] | None = None
