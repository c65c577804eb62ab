"""``/search`` and ``/analyze``."""

from __future__ import annotations

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
from app.web.body import checked, read_json
from app.web.http import State, answers, body_of, json_answer, room, unless_gone

router = APIRouter(tags=["search"])
READ = [Depends(scope("predict")), Depends(room)]
SEARCH = {
    "words": {"query": "charged twice", "k": 5},
    "with a filter": {"query": "parcel late", "k": 3, "method": "bm25", "filter": {"lang": "en"}},
}
ANALYZE = {
    "English": {"text": "The parcels were delivered late"},
    "Chinese": {"text": "我的包裹还没有到", "lang": "zh"},
}


@router.post(
    "/search",
    summary="Find documents",
    dependencies=READ,
    openapi_extra=body_of(SearchRequest, SEARCH),
    responses=answers(SearchResponse, *REFUSALS),
)
async def search(request: Request, footnote: State) -> Response:
    """The documents for a query, best first: the very retrieval that predictions rest on."""
    wanted = checked(SearchRequest, await read_json(request))
    work = search_service.search(
        wanted,
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
    openapi_extra=body_of(AnalyzeRequest, ANALYZE),
    responses=answers(AnalyzeResponse, *REFUSALS),
)
async def analyze(request: Request, footnote: State) -> Response:
    """Tokens with their places, which are stop words, and the stems that the index holds."""
    wanted = checked(AnalyzeRequest, await read_json(request))
    analysed = await search_service.analyze(
        wanted,
        snapshots=footnote.snapshots,
        settings=footnote.settings,
        pipeline=footnote.pipeline,
        permits=footnote.permits,
    )
    return json_answer(analysed)
