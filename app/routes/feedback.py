"""``/feedback``: corrections, taken back corrections, and all of them as training data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response, StreamingResponse

from app.manage import feedback as feedback_service
from app.manage.correction_impact import FeedbackParts
from app.records.feedback import Feedback
from app.records.keys import scope
from app.schemas.documents import FeedbackRequest, FeedbackResponse, UndoResponse
from app.web.body import JsonRoute
from app.web.http import State, json_answer, refusals

router = APIRouter(tags=["feedback"], dependencies=[Depends(scope("write"))], route_class=JsonRoute)


async def parts_of(footnote: State) -> FeedbackParts:
    """The parts of the server that feedback and its impact use."""
    return FeedbackParts(
        settings=footnote.settings,
        store=footnote.store,
        indexer=footnote.indexer,
        feedback=footnote.feedback,
        predictions=footnote.predictions,
        permits=footnote.permits,
        snapshots=footnote.snapshots,
        pipeline=footnote.pipeline,
        ablations=footnote.ablations,
    )


Correcting = Annotated[FeedbackParts, Depends(parts_of)]


@router.post(
    "/feedback",
    status_code=201,
    summary="Correct an answer",
    response_model=FeedbackResponse,
    responses=refusals(
        "validation",
        "not-found",
        "queue-full",
        "payload-too-large",
        "unsupported-media-type",
        "not-ready",
        "insufficient-storage",
    )
    | {200: {"model": FeedbackResponse, "description": "The preview: nothing was written."}},
)
async def give_feedback(body: FeedbackRequest, parts: Correcting) -> Response:
    """With `apply: index` the next prediction knows the corrected example.

    `impact` names the recent predictions that it changes.
    """
    given = await feedback_service.give(parts, body)
    return json_answer(given, 200 if body.preview else 201)


@router.get(
    "/feedback",
    summary="Export all feedback as training data",
    responses={200: {"description": "JSON lines.", "content": {"application/x-ndjson": {}}}},
)
async def export_feedback(
    footnote: State, format: Annotated[Literal["jsonl"], Query()] = "jsonl"
) -> Response:
    """One JSON object a line, in the order it was given."""
    return StreamingResponse(json_lines(footnote.feedback), media_type="application/x-ndjson")


@router.delete(
    "/feedback/{feedback_id}",
    summary="Take feedback back",
    responses=refusals("not-found", "not-ready", "insufficient-storage"),
)
async def undo_feedback(feedback_id: str, footnote: State) -> UndoResponse:
    """The document that it made goes, or goes back to what other feedback says."""
    return await feedback_service.undo(footnote.feedback, footnote.indexer, feedback_id)


def json_lines(feedback: Feedback) -> Iterator[bytes]:
    """Every feedback as a line."""
    for one in feedback.export():
        yield orjson.dumps(one) + b"\n"
