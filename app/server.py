"""The ASGI application: routes, errors, and the life of the state behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.inference.engine import EngineClosed
from app.problems import FieldError, Problem, Slug
from app.routes import (
    admin,
    audit,
    datasets,
    documents,
    feedback,
    jobs,
    openai,
    operations,
    predict,
    problems,
    search,
)
from app.routes import docs as docs_page
from app.settings import Settings
from app.state import Footnote
from app.web.http import ClientDisconnect, problem_answer
from app.web.middleware import RequestContext
from index_data.search.searcher import MethodUnavailable
from index_data.storage.store import PreconditionFailed, StorageError, StoreClosed

logger = logging.getLogger(__name__)

ROUTERS = (
    predict.router,
    openai.router,
    search.router,
    documents.router,
    feedback.router,
    admin.router,
    datasets.router,
    audit.router,
    jobs.router,
    operations.router,
    problems.router,
    docs_page.router,
)
STATUSES: dict[int, tuple[Slug, str]] = {
    404: ("not-found", "There is no such address."),
    405: ("method-not-allowed", "This address takes another method."),
}
CLIENT_GONE = 499  # nobody reads it; it is for the log


def create_app(footnote: Footnote | Settings) -> FastAPI:
    """The application on a state, or on one made here from settings.

    The state starts loading with the application and is closed with it. Raises what opening the
    store raises (``StoreLocked`` when another server has it).
    """
    state = Footnote(footnote) if isinstance(footnote, Settings) else footnote
    app = FastAPI(
        title="Footnote", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.footnote = state
    for router in ROUTERS:
        app.include_router(router)
    docs_page.scopes(app)  # a route with no scope must not be served
    app.openapi = docs_page.description(app, operations.code_version())  # type: ignore[method-assign]
    app.add_middleware(RequestContext)
    for kind, told in HANDLERS.items():
        app.add_exception_handler(kind, answering(told))
    app.add_exception_handler(ClientDisconnect, gone)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start loading when the server starts; when it ends, end in order."""
    footnote: Footnote = app.state.footnote
    footnote.start()
    yield
    await asyncio.to_thread(footnote.close)


def of_problem(error: Exception) -> Problem:
    """A problem is told as it is."""
    assert isinstance(error, Problem)
    return error


def of_http(error: Exception) -> Problem:
    """What the router says: no such address, or not with this method."""
    assert isinstance(error, HTTPException)
    slug, detail = STATUSES.get(error.status_code, ("validation", "The request is not valid."))
    return Problem(slug, detail, headers=error.headers)


def of_parameters(error: Exception) -> Problem:
    """Query parameters and headers of the wrong kind. The body is checked elsewhere."""
    assert isinstance(error, RequestValidationError)
    errors = [FieldError(f"#/{e['loc'][-1]}", str(e["msg"])) for e in error.errors()]
    return Problem("validation", "A parameter is not valid.", errors=errors)


def of_storage(error: Exception) -> Problem:
    """The disk refused: nothing of the write is there."""
    assert isinstance(error, StorageError)
    if error.full:
        return Problem("insufficient-storage", "The disk is full; nothing was written.")
    return Problem("not-ready", "The disk refused to write; nothing was written.", retry_after=5)


def of_precondition(error: Exception) -> Problem:
    """``If-Match`` did not hold."""
    return Problem("precondition-failed", "The document is not the one that If-Match names.")


def of_closing(error: Exception) -> Problem:
    """The server is ending, or the model was replaced under a request that held nothing."""
    return Problem("not-ready", "The server is stopping or changing; try again.", retry_after=1)


def of_method(error: Exception) -> Problem:
    """Vectors were asked for where there are none."""
    return Problem("capability-missing", "The index has no vectors to search by; it can do: bm25.")


HANDLERS: dict[type[Exception], Callable[[Exception], Problem]] = {
    Problem: of_problem,
    HTTPException: of_http,
    RequestValidationError: of_parameters,
    StorageError: of_storage,
    PreconditionFailed: of_precondition,
    StoreClosed: of_closing,
    EngineClosed: of_closing,
    MethodUnavailable: of_method,
}


def answering(told: Callable[[Exception], Problem]) -> Any:
    """An exception handler that answers with the problem."""

    async def handler(request: Request, error: Exception) -> Response:
        return answer_to(request, told(error))

    return handler


def answer_to(request: Request, problem: Problem) -> Response:
    """A problem in the shape that the address calls for."""
    request_id = getattr(request.state, "request_id", None)
    return problem_answer(problem, request_id, openai=request.url.path.startswith("/v1/"))


async def gone(request: Request, error: Exception) -> Response:
    """Nobody is there any more."""
    return Response(status_code=CLIENT_GONE)
