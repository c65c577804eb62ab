"""``/v1``: chats, completions and the list of models, as OpenAI's clients speak them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from app.predict import openai as service
from app.problems import Problem
from app.records.keys import scope
from app.routes import predict
from app.routes.predict import Answering
from app.schemas.openai import (
    ChatRequest,
    CompletionRequest,
    ModelBody,
    ModelList,
    Shared,
)
from app.web.body import JsonRoute
from app.web.http import State, admission, event_source, json_answer, refusals, unless_gone
from app.web.streaming import Emit, Streaming

router = APIRouter(prefix="/v1", tags=["clients"], route_class=JsonRoute)
READ = [Depends(scope("predict")), Depends(admission)]
REFUSALS = (*predict.REFUSALS, "not-found")
ModelId = Annotated[str, Path(max_length=256)]


@router.post(
    "/chat/completions",
    summary="Answer in a dialogue, as OpenAI does",
    dependencies=READ,
    responses=refusals(*REFUSALS),
)
async def chat(request: Request, body: ChatRequest, driver: Answering) -> Response:
    """The task `dialogue`; citations, sentences and support stand in extra fields."""
    return await answered(request, "chat.completion", body, partial(service.chat, driver, body))


@router.post(
    "/completions",
    summary="Continue a text, as OpenAI does",
    dependencies=READ,
    responses=refusals(*REFUSALS),
)
async def completions(request: Request, body: CompletionRequest, driver: Answering) -> Response:
    """The task `generation`; without a generator 404 `model_not_found`."""
    work = partial(service.completion, driver, body)
    return await answered(request, "text_completion", body, work)


@router.get(
    "/models",
    summary="The models that serve",
    dependencies=[Depends(scope("predict"))],
    response_model=ModelList,
    responses=refusals(),
)
async def models(footnote: State) -> Response:
    """`footnote` answers chats; with a generator completions too, also under its own name."""
    return json_answer(service.models(footnote.started, footnote.snapshot()))


@router.get(
    "/models/{model_id}",
    summary="One of them",
    dependencies=[Depends(scope("predict"))],
    response_model=ModelBody,
    responses=refusals("not-found"),
)
async def model(model_id: ModelId, footnote: State) -> Response:
    """404 `model_not_found` for any other."""
    service.check_model(footnote.snapshot(), model_id)
    return json_answer(service.model(footnote.started, model_id))


async def answered(request: Request, kind: service.Kind, body: Shared, work: Any) -> Response:
    """An answer at once, or as a stream of chunks that ends with `[DONE]`."""
    if not body.stream:
        prediction = await unless_gone(request, work())
        return json_answer(service.answer(kind, body, prediction))

    async def emitting(emit: Emit) -> Any:
        return await work(emit)

    streaming = await unless_gone(request, Streaming(emitting, last="prediction").started())
    request_id = getattr(request.state, "request_id", None)

    def problem(error: Problem) -> dict[str, Any]:
        return error.to_openai(request_id)

    async def chunks() -> AsyncIterator[ServerSentEvent]:
        async with aclosing(streaming.events()) as events:
            async for chunk in service.chunks(kind, body, events, problem):
                yield ServerSentEvent(orjson.dumps(chunk).decode())
        yield ServerSentEvent("[DONE]")

    return event_source(request, streaming, chunks())
