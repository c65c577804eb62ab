"""Reading request bodies: the one place where bytes from outside become values.

Handlers declare the body as a typed parameter, and FastAPI checks it. Here is what comes before:
limits of size and time, the content type, and strict JSON (no NaN, no number beyond 64-bit floats,
no lone surrogates, no deep nesting). Whatever is wrong is a :class:`Problem`, and no message
repeats what was sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.problems import Problem, invalid

Ndjson = SkipJsonSchema[None]
"""`Model | Ndjson`: the body may come as NDJSON too. Then it is None, and the request is read."""

MAX_DEPTH = 64
JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json")
NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_POSITION = re.compile(r"line (\d+) column (\d+)")


def media_type(request: Request) -> str:
    """The content type without its parameters, lower case; empty when there is none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def chunks(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises ``request-timeout`` when no byte comes for ``idle_s``."""
    stream = aiter(request.stream())
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), idle_s)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem(
                "request-timeout",
                f"No byte of the body arrived for {idle_s:g} seconds.",
                headers={"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise Problem(
                "request-timeout", "The connection ended before the body was complete."
            ) from None
        if chunk:
            yield chunk


async def read_bytes(request: Request, *, limit: int, idle_s: float) -> bytes:
    """The whole body. Raises ``payload-too-large`` as soon as it is known to be over ``limit``."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large(limit)
    body = bytearray()
    async for chunk in chunks(request, idle_s):
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)


def too_large(limit: int) -> Problem:
    """The problem of a body over the limit. The connection is closed: the rest is not read."""
    return Problem(
        "payload-too-large",
        f"The body is over {limit} bytes.",
        headers={"Connection": "close"},
    )


class JsonRoute(APIRoute):
    """A route whose body is read here, once its dependencies have let the request pass.

    FastAPI by itself reads all of a body before any dependency, with the standard library's JSON.
    Where the body may be None, NDJSON is taken too: it is left to the handler, as a stream.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handler, body = super().get_route_handler(), self.body_field
        if body is None:
            return handler
        streams = not body.field_info.is_required()

        async def handle(request: Request) -> Response:
            for guard in self.dependencies:
                assert guard.dependency is not None
                await guard.dependency(request)
            value = None
            if not (streams and media_type(request) in NDJSON_TYPES):
                value = await read_json(request)
            return await handler(_Decoded(request, value))

        return handle


class _Decoded(Request):
    """A request as FastAPI is to see it: with the value of its body (None: there is none)."""

    def __init__(self, request: Request, value: dict[str, Any] | None) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def body(self) -> bytes:
        """FastAPI only asks whether there is one."""
        return b"" if self._value is None else b"{}"

    async def json(self) -> Any:
        """The decoded body."""
        return self._value


async def read_json(request: Request) -> dict[str, Any]:
    """The decoded JSON body, which is an object. Raises :class:`Problem`."""
    if not JSON_TYPE.fullmatch(media_type(request)):
        raise Problem("unsupported-media-type", "Send the header Content-Type: application/json.")
    settings = request.app.state.footnote.settings
    body = await read_bytes(request, limit=settings.max_body, idle_s=settings.idle_timeout_s)
    return decode(body)


def decode(body: bytes) -> dict[str, Any]:
    """JSON to values. Raises ``validation`` with the place, never with the text."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        found = _POSITION.search(str(error))
        place = f" at line {found[1]}, column {found[2]}" if found else ""
        detail = "the body is empty" if not body.strip() else f"not valid JSON{place}"
        raise invalid("#", detail) from None
    check_depth(value)
    if not isinstance(value, dict):
        raise invalid("#", "must be a JSON object")
    return value


def check_depth(value: Any) -> None:
    """Refuse nesting that could exhaust a recursive reader. Level by level, so itself safe."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                inner.extend(v for v in item if isinstance(v, dict | list))
        if not inner:
            return
        level = inner
    raise invalid("#", f"nested deeper than {MAX_DEPTH}")
