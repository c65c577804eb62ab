"""Reading request bodies: the one place where bytes from outside become values.

JSON is decoded strictly (no NaN, no number beyond 64-bit floats, no lone surrogates, no deep
nesting), then checked against a model. Whatever is wrong is a :class:`Problem` with a JSON pointer,
and no message repeats what was sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from app.problems import FieldError, Problem, invalid

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH = 64
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
                f"No byte of the body came for {idle_s:g} seconds.",
                headers={"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise Problem("request-timeout", "The connection ended before the body did.") from None
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


async def read_json(request: Request) -> Any:
    """The decoded JSON body. Raises :class:`Problem`."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem("unsupported-media-type", "Send the header Content-Type: application/json.")
    settings = request.app.state.footnote.settings
    body = await read_bytes(request, limit=settings.max_body, idle_s=settings.idle_timeout_s)
    return decode(body)


def decode(body: bytes) -> Any:
    """JSON to values. Raises ``validation`` with the place, never with the text."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        found = _POSITION.search(str(error))
        place = f" at line {found[1]}, column {found[2]}" if found else ""
        detail = "the body is empty" if not body.strip() else f"not valid JSON{place}"
        raise invalid("#", detail) from None
    check_depth(value)
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


def checked(model: type[M], value: Any) -> M:
    """``value`` as a ``model``. Raises ``validation`` naming every wrong place."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found: dict[str, str] = {}
        for e in error.errors(include_url=False, include_context=False, include_input=False):
            found.setdefault(pointer(value, e["loc"]), explained(e["type"], e["msg"]))
        errors = [FieldError(where, why) for where, why in found.items()]
        raise Problem("validation", "The request is not valid.", errors=errors) from None


def explained(kind: str, message: str) -> str:
    """What is wrong, in words that do not depend on the input."""
    known = {"extra_forbidden": "unknown field", "missing": "required"}
    return known.get(kind, message.removeprefix("Input ").removeprefix("Value error, "))


def pointer(root: Any, place: tuple[int | str, ...]) -> str:
    """The JSON pointer of a place; names of union branches, which are no places, are skipped.

    A key that is not plain is cut off later, where the problem is told.
    """
    parts, value = ["#"], root
    for position, part in enumerate(place):
        if isinstance(value, dict) and isinstance(part, str):
            last = position == len(place) - 1
            if part not in value and not last:
                continue
            parts.append(part.replace("~", "~0").replace("/", "~1"))
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            parts.append(str(part))
            value = value[part]
    return "/".join(parts)
