"""The ASGI application: routes, errors, and the life of the state behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

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
from app.web.errors import handle_errors
from app.web.middleware import RequestContext

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


def create_app(footnote: Footnote | Settings) -> FastAPI:
    """The application on a state, or on one made here from settings.

    The state starts loading with the application and is closed with it. Raises what opening the
    store raises (``StoreLocked`` when another server has it).
    """
    state = Footnote(footnote) if isinstance(footnote, Settings) else footnote
    app = FastAPI(
        title="Footnote",
        summary="Retrieval-augmented predictions: every answer names what it rests on.",
        version=operations.code_version(),
        openapi_url=None,  # the page and the description are routes of our own
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.footnote = state
    for router in ROUTERS:
        app.include_router(router)
    docs_page.scopes(app)  # a route with no scope must not be served
    app.add_middleware(RequestContext)
    handle_errors(app)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start loading when the server starts; when it ends, end in order."""
    footnote: Footnote = app.state.footnote
    footnote.start()
    yield
    await asyncio.to_thread(footnote.close)
