"""What the handlers share: answers as JSON, admission, client disconnects, descriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from app.problems import KINDS, Problem, Slug, invalid
from app.schemas.base import ProblemBody
from app.state import Footnote
from app.web.streaming import Event, Streaming

PING_S = 15
T = TypeVar("T")
PROBLEM_TYPE = "application/problem+json"
BODY_REFUSALS: tuple[Slug, ...] = (
    "validation",
    "payload-too-large",
    "unsupported-media-type",
    "request-timeout",
)
RETRIED: frozenset[Slug] = frozenset({"queue-full", "not-ready"})


class ClientDisconnect(Exception):
    """The client closed the connection before the answer was there."""


async def state_of(request: Request) -> Footnote:
    """The application's state."""
    footnote: Footnote = request.app.state.footnote
    return footnote


State = Annotated[Footnote, Depends(state_of)]


async def admission(request: Request) -> None:
    """A dependency: refuse with ``queue-full`` before the body is read, when no permit is left."""
    request.app.state.footnote.permits.check()


def json_answer(
    body: bytes | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Response(raw, status, headers, media_type="application/json")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; a client that disconnects cancels it (:class:`ClientDisconnect`).

    The body must have been read: what comes after it is the disconnection.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def event_stream(request: Request, streaming: Streaming) -> Response:
    """The events of some work. What goes wrong before the first is answered as any problem."""
    streaming = await unless_gone(request, streaming.started())
    request_id = getattr(request.state, "request_id", None)

    async def sent() -> AsyncIterator[ServerSentEvent]:
        async with aclosing(streaming.events()) as events:
            async for event in events:
                yield ServerSentEvent(event_text(event, request_id), event=event.name)
        yield ServerSentEvent("{}", event="done")

    return event_source(request, streaming, sent())


def event_source(
    request: Request, streaming: Streaming, events: AsyncIterator[ServerSentEvent]
) -> Response:
    """The events of some work, as Server-Sent Events; it may end before the server does."""
    return EventSourceResponse(
        events,
        ping=PING_S,
        client_close_handler_callable=streaming.stop,
        shutdown_grace_period=request.app.state.footnote.settings.shutdown_grace_s,
    )


def event_text(event: Event, request_id: str | None) -> str:
    """The data of an event as JSON."""
    if isinstance(event.data, Problem):
        return orjson.dumps(event.data.to_json(request_id)).decode()
    raw: bytes = event.data if isinstance(event.data, bytes) else orjson.dumps(event.data)
    return raw.decode()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refusals(*slugs: Slug) -> dict[int | str, dict[str, Any]]:
    """The description of the problems that a route may answer with."""
    described: dict[int | str, dict[str, Any]] = {}
    for slug in (*slugs, "unauthenticated", "forbidden"):
        kind = KINDS[slug]
        known = described.setdefault(
            kind.status,
            {"description": "", "content": {PROBLEM_TYPE: {"schema": _PROBLEM, "examples": {}}}},
        )
        known["description"] = f"{known['description']} {kind.title} (`{slug}`).".strip()
        known["content"][PROBLEM_TYPE]["examples"][slug] = {"value": _example(slug)}
    return described


def _example(slug: Slug) -> dict[str, Any]:
    """What a problem of this kind looks like."""
    if slug == "validation":
        return invalid("#/retrieval/k", "at most 100").to_json("req_1")
    retry_after = 1 if slug in RETRIED else None
    detail = KINDS[slug].explanation.split(". ")[0].rstrip(".") + "."
    return Problem(slug, detail, retry_after=retry_after).to_json("req_1")


_PROBLEM = {"$ref": f"#/components/schemas/{ProblemBody.__name__}"}
