"""Bodies of ``/admin/pretrain``, and of the language models that it makes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from app.schemas.base import Request, Response, Version

SHAPE: Final = ("window", "dim", "layers", "heads", "vocab", "k")
"""What comes with the model that a run starts from."""


class PretrainRequest(Request):
    """A request to ``POST /admin/pretrain``; the names are those of ``footnote pretrain``."""

    dataset: Annotated[str, Field(pattern=r"^ds_[0-9a-f]{24}$")] | None = Field(
        None, description="An uploaded set of the kind `text`; null: the documents of the index."
    )
    setting: Literal["own", "others"] | None = Field(
        None,
        description="Where passages come from: the document's own past or other documents; null: "
        "by the length of the documents.",
    )
    start: Version | None = Field(
        None,
        description="A version of `language_models`, or `shipped`, to go on from: its shape and "
        "tokens are kept. null: from nothing.",
    )
    tokens: Annotated[int, Field(ge=1, le=10**12)] = 8_000_000
    batch_tokens: Annotated[int, Field(ge=1, le=2**20)] = 4096
    window: Annotated[int, Field(ge=64, le=8192, multiple_of=64)] = 256
    dim: Annotated[int, Field(ge=8, le=4096)] = 256
    layers: Annotated[int, Field(ge=1, le=64)] = 4
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    vocab: Annotated[int, Field(ge=300, le=65_000)] = 8192
    k: Annotated[int, Field(ge=1, le=16)] = Field(2, description="Passages for each chunk.")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = Field(
        None, description="null: 0.002, for sgd 0.1."
    )
    held_out: Annotated[float, Field(ge=0, le=0.9, allow_inf_nan=False)] = 0.05
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class LanguageModelBody(Response):
    """A language model that was pre-trained here; ``problem`` says why it cannot be read.

    ``tokens``: those that it learned from, with those of the models that it was started from.
    ``metrics``: bits per byte and perplexity of words of held-out text, by source, with
    retrieval on and off.
    """

    version: str
    created: str | None = None
    problem: str | None = None
    parameters: int | None = None
    tokens: int | None = None
    metrics: dict[str, Any] = {}
