"""``POST /predictions/{id}/replay``: from a record to the same answer. It knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import orjson

from app import classify_service as service
from app.pins import unavailable
from app.pipeline import Ask
from app.replay import REQUESTS, compared, recorded
from app.schemas.predict import PredictRequest
from app.settings import Settings
from app.snapshot import Snapshot
from app.state import Footnote


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
    for name_ in ("id", "created", "index", "index_info", "degraded", "warnings"):
        if name_ in before:
            body[name_] = before[name_]
    return orjson.dumps({**body, "replay": compared(before, body)})


def asked(record: dict[str, Any], settings: Settings) -> Ask:
    """What was asked of each input, by the record of a prediction."""
    request = REQUESTS[record["route"]].model_validate(record["request"])
    confidence, support = record["thresholds"]
    return replace(
        service.ask_of(request, settings), min_confidence=confidence, min_support=support
    )
