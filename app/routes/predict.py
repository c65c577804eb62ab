"""``/predict``, ``/classify`` and what was predicted."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.predict.driver import Driver
from app.predict.tasks import TASKS, PredictRequest
from app.problems import Slug
from app.records.keys import scope
from app.schemas.predict import ClassifyRequest
from app.schemas.prediction import ClassifyResponse, PredictResponse
from app.web.body import JsonRoute
from app.web.http import (
    BODY_REFUSALS,
    State,
    admission,
    event_stream,
    json_answer,
    refusals,
    unless_gone,
)
from app.web.streaming import Streaming

router = APIRouter(tags=["predict"], route_class=JsonRoute)
READ = [Depends(scope("predict")), Depends(admission)]
REFUSALS: tuple[Slug, ...] = (*BODY_REFUSALS, "capability-missing", "queue-full", "not-ready")


async def driver_of(footnote: State) -> Driver:
    """What answers requests, with the parts of this server."""
    return Driver(
        settings=footnote.settings,
        status=footnote.status,
        permits=footnote.permits,
        snapshots=footnote.snapshots,
        indexer=footnote.indexer,
        pins=footnote.pins,
        pipeline=footnote.pipeline,
        predictions=footnote.predictions,
        ablations=footnote.ablations,
    )


Answering = Annotated[Driver, Depends(driver_of)]


@router.post(
    "/predict",
    summary="Predict with retrieval, for a task",
    dependencies=READ,
    response_model=PredictResponse,
    responses=refusals(*REFUSALS, "pin-unavailable"),
)
async def predict(request: Request, body: PredictRequest, driver: Answering) -> Response:
    """Retrieval, then the Transformer: the answer names the documents that it rests on.

    With `stream` the tasks that generate text answer as Server-Sent Events: `retrieval`,
    `token`..., `prediction` (the whole answer), `done`; `error` where something goes wrong later.
    """
    if body.stream and TASKS[body.task].generates:
        work = partial(driver.predict, body)
        return await event_stream(request, Streaming(work, last="prediction"))
    return json_answer(await unless_gone(request, driver.predict(body)))


async def classify(request: Request, body: ClassifyRequest, driver: Answering) -> Response:
    """Classification in the shape that vLLM's and SGLang's clients read, with citations."""
    return json_answer(await unless_gone(request, driver.classify(body)))


for path in ("/classify", "/v1/classify"):
    router.post(
        path,
        summary="Classify texts",
        dependencies=READ,
        response_model=ClassifyResponse,
        responses=refusals(*REFUSALS, "not-found"),
        operation_id=path.strip("/").replace("/", "_"),
    )(classify)


@router.get(
    "/predictions/{prediction_id}",
    summary="What was answered",
    dependencies=[Depends(scope("write"))],
    responses=refusals("not-found"),
)
async def prediction(prediction_id: str, footnote: State) -> Response:
    """One of the last 10,000 answers, as it was given (but for documents that were erased)."""
    return json_answer(footnote.predictions.get(prediction_id).answer())


@router.post(
    "/predictions/{prediction_id}/replay",
    summary="The same answer again",
    dependencies=[Depends(scope("write")), Depends(admission)],
    response_model=PredictResponse,
    responses=refusals("not-found", "pin-unavailable", "queue-full", "not-ready"),
)
async def replay(prediction_id: str, request: Request, driver: Answering) -> Response:
    """By the same model, from the same versions of the same documents; `replay` compares them."""
    return json_answer(await unless_gone(request, driver.replay(prediction_id)))
