"""``POST /predictions/{id}/replay``: from a record to the same answer. It knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.history.pins import unavailable
from app.history.records import REQUESTS, TASKS, compared, recorded
from app.inference.pipeline import Ask, Evidence
from app.inference.snapshot import Serving, Snapshot
from app.predict import classify as service
from app.predict import dialogue as dialogue_service
from app.predict import ner as ner_service
from app.predict import qa as qa_service
from app.predict import text_generation as generation_service
from app.predict.qa_request import questions
from app.predict.text_answer import predict_body
from app.schemas.predict import Abstain, PredictRequest
from app.settings import Settings
from app.state import Footnote
from app.web.streaming import silent

WRITERS = {
    "generation": generation_service.answers,
    "dialogue": dialogue_service.answers,
}


async def replay(footnote: Footnote, name: str) -> bytes:
    """The answer again, with how far it is from the first.

    Raises ``not-found``, and ``pin-unavailable`` when the model or a document is gone.
    """
    began = time.perf_counter()
    kept = footnote.predictions.get(name)
    record, before = kept.record(), kept.answer()
    if "request" not in record:
        raise unavailable("documents", "This prediction was kept without what it was made from.")
    request = REQUESTS[record["route"]].model_validate(record["request"])
    if isinstance(request, PredictRequest) and record["route"] in TASKS:
        body = await task_again(footnote, record, request, began)
        return shown(before, body)
    ask = asked(record, footnote.settings)
    inputs, pointers = service.texts(request.input)
    with footnote.permits.take(len(inputs)):
        now = footnote.snapshot()
        sha256 = record["model"]["sha256"]
        serving = await asyncio.to_thread(footnote.pins.serving, now.model(), sha256)
        evidence = None
        if ask.mode == "index":
            searchers = [now.index(), *footnote.pins.searchers()]
            encoder = serving.model.encoder_sha256
            evidence = await asyncio.to_thread(recorded, record, searchers, encoder)
        snapshot = Snapshot(None, serving)
        answers = await footnote.pipeline.answer_all(
            snapshot, inputs, ask, pointers=pointers, recorded=evidence or ()
        )
    if isinstance(request, PredictRequest):
        body = service.predict_body(request, ask, snapshot, answers, began, ())
    else:
        body = service.classify_body(ask, snapshot, answers, began, ())
    return shown(before, body)


async def task_again(
    footnote: Footnote, record: dict[str, Any], request: PredictRequest, began: float
) -> dict[str, Any]:
    """Answers to questions, or entities, again. Raises ``pin-unavailable``."""
    confidence, support = record["thresholds"]
    abstain = Abstain(min_confidence=confidence, min_support=support)
    request = request.model_copy(update={"abstain": abstain})
    with footnote.permits.take(len(record["inputs"])):
        now = footnote.snapshot()
        sha256 = record["model"]["sha256"]
        serving = await asyncio.to_thread(footnote.pins.serving, now.model(), sha256)
        searchers = [now.index(), *footnote.pins.searchers()]
        encoder = serving.model.encoder_sha256
        evidence = await asyncio.to_thread(recorded, record, searchers, encoder)
        if record["route"] in WRITERS:
            return await written_again(footnote, record, request, began, now, serving, evidence)
        snapshot = Snapshot(None, serving)
        if record["route"] == qa_service.HEAD:
            given = questions(request.input, footnote.settings.max_input_chars)
            answers = await qa_service.answer_all(footnote, snapshot, given, request, evidence)
            return qa_service.predict_body(request, snapshot, answers, began, ())
        inputs, pointers = service.texts(request.input)
        bad = [footnote.pipeline.problem_of(t, p) for t, p in zip(inputs, pointers, strict=True)]
        with serving.engine.use():
            done = await ner_service.answer_all(footnote, snapshot, inputs, bad, request, evidence)
        return ner_service.predict_body(request, snapshot, done, began)


async def written_again(
    footnote: Footnote,
    record: dict[str, Any],
    request: PredictRequest,
    began: float,
    now: Snapshot,
    serving: Serving,
    evidence: Sequence[Evidence | None],
) -> dict[str, Any]:
    """A text, or a turn, again. Raises ``pin-unavailable`` where another generator serves."""
    wanted = record["model"].get("generator")
    if wanted != (None if now.writer is None else now.writer.info.to_json()):
        raise unavailable("model", "The generator that wrote it does not serve any more.")
    snapshot = Snapshot(None, serving, (), now.writer)
    given = evidence if request.retrieval.mode == "index" else ()
    answer_all = WRITERS[record["route"]]
    _, done = await answer_all(footnote, snapshot, request, silent, given)
    return predict_body(request, snapshot, done, began, ())


def shown(before: dict[str, Any], body: dict[str, Any]) -> bytes:
    """The answer with the ids of the first, and how far it is from it."""
    for part in ("id", "created", "index", "index_info", "degraded", "warnings"):
        if part in before:
            body[part] = before[part]
    return orjson.dumps({**body, "replay": compared(before, body)})


def asked(record: dict[str, Any], settings: Settings) -> Ask:
    """What was asked of each input, by the record of a prediction."""
    request = REQUESTS[record["route"]].model_validate(record["request"])
    confidence, support = record["thresholds"]
    return replace(
        service.ask_of(request, settings), min_confidence=confidence, min_support=support
    )
