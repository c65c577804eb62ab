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
from app.web.body import JsonRoute
from app.web.http import State, admission, json_answer, refusals, unless_gone

router = APIRouter(
    tags=["search"],
    dependencies=[Depends(scope("predict")), Depends(admission)],
    route_class=JsonRoute,
)


@router.post(
    "/search",
    summary="Find documents",
    response_model=SearchResponse,
    responses=refusals(*REFUSALS),
)
async def search(request: Request, body: SearchRequest, footnote: State) -> Response:
    """The documents for a query, best first: the very retrieval that predictions rest on."""
    return json_answer(await unless_gone(request, search_service.search(footnote, body)))


@router.post(
    "/analyze",
    summary="Show what preprocessing makes of a text",
    response_model=AnalyzeResponse,
    responses=refusals(*REFUSALS),
)
async def analyze(body: AnalyzeRequest, footnote: State) -> Response:
    """Tokens with their places, which are stop words, and the stems that the index holds."""
    return json_answer(await search_service.analyze(footnote, body))
