"""Bodies of the routes that OpenAI's clients speak, and what they may carry beside.

Parameters that cannot be honoured are accepted only with the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.base import Name, Request, Response
from app.schemas.predict import Abstain, Explain, Retrieval, StopString

Zero = Annotated[float, Field(ge=0, le=0)]
Tokens = Annotated[int, Field(ge=1, le=4_096)]
Stop = StopString | Annotated[list[StopString], Field(max_length=16)]


class StreamOptions(Request):
    """What a stream tells beside the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = Field(None, description="Has no effect.")


class Shared(Request):
    """What chats and completions have in common."""

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Default: 0, the likeliest token."
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    retrieval: Retrieval = Field(Retrieval(), description="Footnote's own: as in `POST /predict`.")
    explain: Annotated[list[Explain], Field(max_length=3)] = ["citations"]
    abstain: Abstain = Abstain()


class ResponseFormat(Request):
    """Only plain text is written."""

    type: Literal["text"]


class ChatRequest(Shared):
    """A request to ``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)] = Field(
        description="`{role, content}`; turns alternate, the last is the user's."
    )
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    store: bool | None = Field(None, description="Has no effect.")
    metadata: dict[str, str] | None = Field(None, description="Has no effect.")


class CompletionRequest(Shared):
    """A request to ``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=32)]
    max_tokens: Tokens | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None


class ModelBody(Response):
    """A model that serves."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Response):
    """The models that serve."""

    object: Literal["list"]
    data: list[ModelBody]
