"""Errors leave by one way: as a problem, in the shape that the address calls for."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from app.inference.model_thread import EngineClosed
from app.problems import FieldError, Problem, Slug
from app.web.http import PROBLEM_TYPE, ClientDisconnect
from index_data.search.searcher import MethodUnavailable
from index_data.storage.store import PreconditionFailed, StorageError, StoreClosed

CLIENT_GONE = 499  # nobody reads it; it is for the log
STATUSES: dict[int, tuple[Slug, str]] = {
    404: ("not-found", "No route has this path."),
    405: ("method-not-allowed", "This path does not take this method."),
}
REASONS = {  # in words that do not depend on the input
    "extra_forbidden": "unknown field",
    "missing": "required",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
}
HANDLED = (
    Problem, RequestValidationError, HTTPException, StorageError, PreconditionFailed, StoreClosed,
    EngineClosed, MethodUnavailable, ClientDisconnect,
)  # fmt: skip


def handle_errors(app: FastAPI) -> None:
    """Let the application answer every known error; the rest is the middleware's."""
    for kind in HANDLED:
        app.add_exception_handler(kind, answer)


async def answer(request: Request, error: Exception) -> Response:
    """The answer to a request that raised ``error``."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    return problem_answer(problem_of(error), request.scope)


def problem_answer(problem: Problem, scope: Scope) -> Response:
    """A problem as an answer. Under ``/v1`` in OpenAI's shape, which those clients read."""
    request_id = scope["state"].get("request_id")
    if scope["path"].startswith("/v1/"):
        body, kind = problem.to_openai(request_id), "application/json"
    else:
        body, kind = problem.to_json(request_id), PROBLEM_TYPE
    return Response(orjson.dumps(body), problem.status, problem.headers, media_type=kind)


def problem_of(error: Exception) -> Problem:
    """The problem that an error is answered as."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return invalid_request(error)
        case HTTPException():
            slug, detail = STATUSES.get(
                error.status_code, ("validation", "The request is not valid.")
            )
            return Problem(slug, detail, headers=error.headers)
        case StorageError(full=True):
            return Problem("insufficient-storage", "The disk is full; nothing was written.")
        case StorageError():
            detail = "The disk refused to write; nothing was written."
            return Problem("not-ready", detail, retry_after=5)
        case PreconditionFailed():
            detail = "If-Match is not the current ETag of the document."
            return Problem("precondition-failed", detail)
        case StoreClosed() | EngineClosed():
            detail = "The server is stopping or changing its model; retry."
            return Problem("not-ready", detail, retry_after=1)
        case MethodUnavailable():
            detail = "The index has no vectors; available methods: bm25."
            return Problem("capability-missing", detail)
    return Problem("internal", "The server's log has the details.")


def invalid_request(error: RequestValidationError) -> Problem:
    """Every wrong place of a body, a parameter or a header, each with one reason."""
    reasons: dict[str, str] = {}
    for e in error.errors():
        if e["type"] == "none_required":  # beside what is wrong with the body that is not None
            continue
        source, *place = e["loc"]
        where = pointer(error.body, place) if source == "body" else f"#/{place[-1]}"
        message = e["msg"].removeprefix("Input ").removeprefix("Value error, ")
        reasons.setdefault(where, REASONS.get(e["type"], message))
    errors = [FieldError(where, reason) for where, reason in reasons.items()]
    return Problem("validation", "The request is not valid.", errors=errors)


def pointer(root: Any, place: list[int | str]) -> str:
    """The JSON pointer of a place; names of union branches, which are no places, are skipped.

    A key that is not plain is cut off later, where the problem is shown.
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
