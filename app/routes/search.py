"""``/search`` and ``/analyze``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.manage import search as search_service
from app.records.keys import scope
from app.routes.predict import REFUSALS
from app.schemas.documents import (
    AnalyzeRequest,
    AnalyzeResponse,
    SearchRequest,
    SearchResponse,
)
from app.web.body import JsonRoute, examples
from app.web.http import State, answers, json_answer, room, unless_gone

router = APIRouter(tags=["search"], route_class=JsonRoute)
READ = [Depends(scope("predict")), Depends(room)]
SEARCH = {
    "words": {"query": "charged twice", "k": 5},
    "with a filter": {"query": "parcel late", "k": 3, "method": "bm25", "filter": {"lang": "en"}},
}
Search = Annotated[SearchRequest, examples(SEARCH)]
ANALYZE = {
    "English": {"text": "The parcels were delivered late"},
    "Chinese": {"text": "我的包裹还没有到", "lang": "zh"},
}
Analyze = Annotated[AnalyzeRequest, examples(ANALYZE)]


@router.post(
    "/search",
    summary="Find documents",
    dependencies=READ,
    responses=answers(SearchResponse, *REFUSALS),
)
async def search(request: Request, body: Search, footnote: State) -> Response:
    """The documents for a query, best first: the very retrieval that predictions rest on."""
    work = search_service.search(
        body,
        snapshots=footnote.snapshots,
        indexer=footnote.indexer,
        pipeline=footnote.pipeline,
        permits=footnote.permits,
        max_chars=footnote.settings.max_input_chars,
    )
    return json_answer(await unless_gone(request, work))


@router.post(
    "/analyze",
    summary="Show what preprocessing makes of a text",
    dependencies=READ,
    responses=answers(AnalyzeResponse, *REFUSALS),
)
async def analyze(body: Analyze, footnote: State) -> Response:
    """Tokens with their places, which are stop words, and the stems that the index holds."""
    analysed = await search_service.analyze(
        body,
        snapshots=footnote.snapshots,
        settings=footnote.settings,
        pipeline=footnote.pipeline,
        permits=footnote.permits,
    )
    return json_answer(analysed)
