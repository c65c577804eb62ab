"""``/search`` and ``/analyze``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.manage import search as search_service
from app.manage.search import SearchParts
from app.records.keys import scope
from app.routes.predict import REFUSALS
from app.schemas.documents import (
    AnalyzeRequest,
    AnalyzeResponse,
    SearchRequest,
    SearchResponse,
)
from app.web.body import JsonRoute
from app.web.http import State, admission, json_answer, refusals, unless_gone

router = APIRouter(
    tags=["search"],
    dependencies=[Depends(scope("predict")), Depends(admission)],
    route_class=JsonRoute,
)


async def parts_of(footnote: State) -> SearchParts:
    """The parts of the server that searching and analysing use."""
    return SearchParts(
        settings=footnote.settings,
        permits=footnote.permits,
        snapshots=footnote.snapshots,
        indexer=footnote.indexer,
        pipeline=footnote.pipeline,
    )


Searching = Annotated[SearchParts, Depends(parts_of)]


@router.post(
    "/search",
    summary="Find documents",
    response_model=SearchResponse,
    responses=refusals(*REFUSALS),
)
async def search(request: Request, body: SearchRequest, parts: Searching) -> Response:
    """The documents for a query, best first: the very retrieval that predictions rest on."""
    return json_answer(await unless_gone(request, search_service.search(parts, body)))


@router.post(
    "/analyze",
    summary="Show what preprocessing makes of a text",
    response_model=AnalyzeResponse,
    responses=refusals(*REFUSALS),
)
async def analyze(body: AnalyzeRequest, parts: Searching) -> Response:
    """Tokens with their places, which are stop words, and the stems that the index holds."""
    return json_answer(await search_service.analyze(parts, body))
