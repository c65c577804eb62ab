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
from app.web.body import JsonRoute, examples
from app.web.http import BODY_REFUSALS, State, answers, event_stream, json_answer, room, unless_gone
from app.web.streaming import Streaming

router = APIRouter(tags=["predict"], route_class=JsonRoute)
READ = [Depends(scope("predict")), Depends(room)]
REFUSALS: tuple[Slug, ...] = (*BODY_REFUSALS, "capability-missing", "queue-full", "not-ready")
CHARGED = "I was charged twice for one order"
CLASSIFY = {
    "one text": {"input": CHARGED},
    "several, with options": {
        "input": [CHARGED, "Where is my parcel?"],
        "retrieval": {"k": 5, "method": "bm25"},
        "abstain": {"min_confidence": 0.2},
    },
    "explained": {
        "input": CHARGED,
        "retrieval": {"k": 10},
        "explain": ["citations", "influence", "ablation"],
    },
    "closed book": {"input": CHARGED, "retrieval": {"mode": "off"}},
}
Classify = Annotated[ClassifyRequest, examples(CLASSIFY)]
PREDICT = {
    "classification": {"task": "classification", "input": CHARGED, "params": {"top_n": 3}},
    "explained": {
        "task": "classification",
        "input": CHARGED,
        "explain": ["citations", "influence", "ablation"],
        "abstain": {"min_support": 0.3},
    },
    "sentiment": {"task": "sentiment", "input": "Fast delivery, thank you!"},
    "question": {"task": "qa", "input": {"question": "How long do I have to return an item?"}},
    "question with its text": {
        "task": "qa",
        "input": {
            "question": "When does the shop open?",
            "context": "The shop in Mill Lane opens at nine. On Sundays it is closed.",
        },
    },
    "dialogue": {
        "task": "dialogue",
        "input": {
            "messages": [
                {"role": "user", "content": "I was charged twice for one order"},
                {"role": "assistant", "content": "I am sorry. Which order is it?"},
                {"role": "user", "content": "Number 48213. What happens to the second payment?"},
            ]
        },
    },
    "entities": {"task": "ner", "input": "Order 48213 from 3 March cost £89.00"},
    "provided documents": {
        "task": "classification",
        "input": CHARGED,
        "retrieval": {
            "mode": "provided",
            "documents": [
                {"id": "a", "text": "Two payments for the same order", "label": "billing"},
                {"id": "b", "text": "The parcel never came", "label": "delivery"},
            ],
        },
    },
}
Predict = Annotated[PredictRequest, examples(PREDICT)]


async def driver_of(footnote: State) -> Driver:
    """What answers requests, with the parts of this server."""
    return Driver(footnote)


Answering = Annotated[Driver, Depends(driver_of)]


@router.post(
    "/predict",
    summary="Predict with retrieval, for a task",
    dependencies=READ,
    responses=answers(PredictResponse, *REFUSALS, "pin-unavailable"),
)
async def predict(request: Request, body: Predict, driver: Answering) -> Response:
    """Retrieval, then the Transformer: the answer names the documents that it rests on.

    With `stream` the tasks that generate text answer as Server-Sent Events: `retrieval`,
    `token`..., `prediction` (the whole answer), `done`; `error` where something goes wrong later.
    """
    if body.stream and TASKS[body.task].generates:
        work = partial(driver.predict, body)
        return await event_stream(request, Streaming(work, last="prediction"))
    return json_answer(await unless_gone(request, driver.predict(body)))


async def classify(request: Request, body: Classify, driver: Answering) -> Response:
    """Classification in the shape that vLLM's and SGLang's clients read, with citations."""
    return json_answer(await unless_gone(request, driver.classify(body)))


for path in ("/classify", "/v1/classify"):
    router.post(
        path,
        summary="Classify texts",
        dependencies=READ,
        responses=answers(ClassifyResponse, *REFUSALS, "not-found"),
        operation_id=path.strip("/").replace("/", "_"),
    )(classify)


@router.get(
    "/predictions/{prediction_id}",
    summary="What was answered",
    dependencies=[Depends(scope("write"))],
    responses=answers(None, "not-found"),
)
async def prediction(prediction_id: str, footnote: State) -> Response:
    """One of the last 10,000 answers, as it was given (but for documents that were erased)."""
    return json_answer(footnote.predictions.get(prediction_id).answer())


@router.post(
    "/predictions/{prediction_id}/replay",
    summary="The same answer again",
    dependencies=[Depends(scope("write")), Depends(room)],
    responses=answers(PredictResponse, "not-found", "pin-unavailable", "queue-full", "not-ready"),
)
async def replay(prediction_id: str, request: Request, driver: Answering) -> Response:
    """By the same model, from the same versions of the same documents; `replay` compares them."""
    return json_answer(await unless_gone(request, driver.replay(prediction_id)))
