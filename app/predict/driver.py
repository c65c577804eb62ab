"""The one way of a request: every task, ``POST /predict``, ``POST /classify`` and replays.

Check, read the inputs, take permits, capture a snapshot, answer the inputs together, shape the
body, keep the prediction. It knows no HTTP; `app.predict.task` says what a task adds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from app.history.pins import Pins, unavailable
from app.history.predictions import Output, Predictions
from app.history.records import CLASSIFY, PREDICT, compared, record_of, recorded
from app.inference.ablation import Ablations
from app.inference.admission import Permits
from app.inference.answer import Answered, Evidence
from app.inference.indexer import Indexer
from app.inference.pipeline import Pipeline, together
from app.inference.snapshot import MODEL_NAME, Snapshot, Snapshots
from app.predict.bodies import Prediction, classify_body, predict_body
from app.predict.classification import task_request
from app.predict.inputs import check_retrieval, refuse_all
from app.predict.task import AnyTask, Context
from app.predict.tasks import TASKS, available
from app.problems import FieldError, Problem
from app.schemas.predict import Abstain, ClassifyRequest, Retrieval, TaskRequest
from app.settings import Settings
from app.startup import Status
from app.web.streaming import Emit, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Answers requests with the parts of one server."""

    settings: Settings
    status: Status
    permits: Permits
    snapshots: Snapshots
    indexer: Indexer
    pins: Pins
    pipeline: Pipeline
    predictions: Predictions
    ablations: Ablations

    async def predict(self, request: TaskRequest, emit: Emit = silent) -> bytes:
        """The answer to ``POST /predict``, as JSON. Raises :class:`Problem`."""
        done = await self._answer(request, emit)
        route = PREDICT if done.task.labels else request.task
        return self._retained(route, request, done, predict_body(done))

    async def classify(self, request: ClassifyRequest) -> bytes:
        """The answer to ``POST /classify``, as JSON. Raises :class:`Problem`."""
        done = await self._answer(task_request(request), model=request.model)
        return self._retained(CLASSIFY, request, done, classify_body(done))

    async def replay(self, name: str) -> bytes:
        """The answer of a prediction again, from the same evidence, with how far it is from it.

        Raises ``not-found``, and ``pin-unavailable`` when the model or a document is gone.
        """
        began = time.perf_counter()
        prediction = self.predictions.get(name)
        record, before = prediction.record(), prediction.answer()
        if "request" not in record:
            raise unavailable("documents", "This prediction was kept without its record.")
        request = recorded_request(record)
        task = TASKS[request.task]
        inputs = task.read(request, self.settings)
        refuse_all(inputs)
        with self.permits.take(len(inputs)):
            snapshot, evidence = await self._recorded(task, request, record)
            context = Context(request, snapshot, self.pipeline)
            with snapshot.model().engine.use():
                answers = await answer_all(task, context, inputs, evidence)
        done = Prediction(task, context, answers, began)
        body = classify_body(done) if record["route"] == CLASSIFY else predict_body(done)
        for part in ("id", "created", "index", "index_info", "degraded", "warnings"):
            if part in before:
                body[part] = before[part]
        return orjson.dumps({**body, "replay": compared(before, body)})

    async def _answer(
        self, request: TaskRequest, emit: Emit = silent, model: str | None = None
    ) -> Prediction:
        """The answers to a request. ``model``: a name by which the model must be known."""
        began = time.perf_counter()
        task = TASKS[request.task]
        if request.stream and not task.generates:
            detail = f"The task '{request.task}' is not streamed. Ask without 'stream'."
            raise Problem("capability-missing", detail)
        request = task.check(request, self.settings)
        check_retrieval(request.retrieval)
        inputs = task.read(request, self.settings)
        refuse_all(inputs)
        with self.permits.take(len(inputs)):
            snapshot = await self._capture(request)
            check_model(snapshot, model)
            self.pins.note(snapshot.searcher)
            check_available(task, snapshot)
            context = Context(request, snapshot, self.pipeline, emit)
            with snapshot.model().engine.use():
                degraded = await task.prepare(context, inputs)
                answers = await answer_all(task, context, inputs)
        return Prediction(task, context, answers, began, degraded)

    async def _capture(self, request: TaskRequest) -> Snapshot:
        """The snapshot of one request, pinned where it asks for that.

        Raises ``not-ready`` while what it needs is not loaded, and ``pin-unavailable``.
        """
        retrieval: Retrieval = request.retrieval
        self.status.check(index=retrieval.mode == "index")
        if retrieval.min_sequence is not None:
            pointer = "#/retrieval/min_sequence"
            await self.indexer.reach(retrieval.min_sequence, pointer)
        snapshot = self.snapshots.now()
        if retrieval.mode == "index":
            snapshot.index()
        snapshot.model()
        pin = request.pin
        return await self.pins.snapshot(snapshot, pin.model_sha256, pin.index_sequence)

    async def _recorded(
        self, task: AnyTask, request: TaskRequest, record: dict[str, Any]
    ) -> tuple[Snapshot, Sequence[Evidence | None]]:
        """The model of a record, and the evidence from the index of each input.

        Raises ``not-ready`` at the start of a server, and ``pin-unavailable`` when the model, the
        generator or a document is gone.
        """
        self.status.check(index=request.retrieval.mode == "index")
        now = self.snapshots.now()
        sha256 = record["model"]["sha256"]
        serving = await asyncio.to_thread(self.pins.serving, now.model(), sha256)
        evidence: Sequence[Evidence | None] = ()
        if request.retrieval.mode == "index":  # provided documents are in the request
            searchers = [now.index(), *self.pins.searchers()]
            encoder = serving.model.encoder_sha256
            evidence = await asyncio.to_thread(recorded, record, searchers, encoder)
        if task.generates and record["model"].get("generator") != now.generator_json():
            raise unavailable("model", "The generator of this prediction does not serve any more.")
        return replace(now, searcher=None, serving=serving, degraded=()), evidence

    def _retained(
        self,
        route: str,
        request: TaskRequest | ClassifyRequest,
        done: Prediction,
        body: dict[str, Any],
    ) -> bytes:
        """The body as JSON, after keeping it with its record."""
        raw, context = orjson.dumps(body), done.context
        field = done.task.field(context.request)
        answers = [one if isinstance(one, Answered) else None for one in done.answers]
        for one in done.good:
            if one.closed is not None and one.abstain_reason != "no_evidence":
                self.ablations.count(field, one.closed)
        from_index = context.request.retrieval.mode == "index"
        record = record_of(
            route,
            request,
            context.request.abstain,
            context.snapshot,
            [one.evidence if one else None for one in answers],
            from_index=from_index,
            vectors=done.task.labels,
        )
        self.predictions.keep(
            body["id"],
            field=field,
            outputs=[output_of(done.task, one) if one else None for one in answers],
            body=raw,
            record=record,
            vectors=[one.vector if one else None for one in answers] if from_index else (),
            encoder=context.snapshot.model().model.encoder_sha256,
        )
        return raw


def output_of(task: AnyTask, answer: Answered) -> Output:
    """What feedback needs to know of an answer."""
    confidence = answer.confidence if task.labels else None
    return Output(answer.input_text, answer.label, confidence, answer.closed)


async def answer_all(
    task: AnyTask,
    context: Context,
    inputs: Sequence[object],
    evidence: Sequence[Evidence | None] = (),
) -> list[Answered | Problem]:
    """The answers in order, or what is wrong with each input. Raises where all are wrong.

    ``evidence``: of each input, for a replay.
    """
    work = [
        task.answer(context, one, known)
        for one, known in zip(inputs, evidence or [None] * len(inputs), strict=True)
        if not isinstance(one, Problem)
    ]
    done = iter(await together(work))
    answers = [one if isinstance(one, Problem) else next(done) for one in inputs]
    refuse_all(answers)
    return answers


def check_model(snapshot: Snapshot, name: str | None) -> None:
    """Raise ``not-found`` for the name of a model that does not serve."""
    if name not in (None, MODEL_NAME, snapshot.model().model.version):
        raise no_model("unknown model", f"No such model serves; it is '{MODEL_NAME}'.")


def no_model(why: str, detail: str) -> Problem:
    """A model that a request names and that cannot answer it: OpenAI's ``model_not_found``."""
    errors = [FieldError("#/model", why)]
    return Problem("not-found", detail, errors=errors, more={"code": "model_not_found"})


def check_available(task: AnyTask, snapshot: Snapshot) -> None:
    """Raise ``capability-missing`` for a task that this server cannot do."""
    why = task.missing(snapshot)
    if why is not None:
        can = ", ".join(available(snapshot))
        raise Problem("capability-missing", f"{why} This server can do: {can}.")


def recorded_request(record: dict[str, Any]) -> TaskRequest:
    """The request of a record, with the thresholds that it was answered under."""
    if record["route"] == CLASSIFY:
        request = task_request(ClassifyRequest.model_validate(record["request"]))
    else:
        request = TaskRequest.model_validate(record["request"])
    confidence, support = record["thresholds"]
    abstain = Abstain(min_confidence=confidence, min_support=support)
    return request.model_copy(update={"abstain": abstain})
