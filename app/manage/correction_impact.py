"""The impact of a correction: which of the recent predictions it changes.

The index with the correction is made beside the one that serves, from the same state, and thrown
away. The retained predictions nearest to the corrected text are answered again, with their own
requests, from both; each text is read once. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.history.predictions import Predictions, RetainedPrediction
from app.history.recent_vectors import Place
from app.inference.ablation import Ablations
from app.inference.admission import Permits
from app.inference.answer import Answer, AnswerOptions
from app.inference.indexer import Indexer
from app.inference.pipeline import Pipeline, read, together
from app.inference.snapshot import Snapshot, Snapshots
from app.predict.classification import options_of
from app.predict.driver import recorded_request
from app.problems import Problem
from app.records.feedback import Feedback
from app.settings import Settings
from index_data.documents import Document
from index_data.generations.index import EncoderChanged
from index_data.storage.store import DocumentStore

AT_ONCE = 8  # inputs answered again together: other requests come between
SCANNED = 8  # predictions looked at for each that may be answered again; equal ones count once
MOVED = 0.01  # the smallest change of confidence that is shown without a change of the label


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackParts:
    """The parts of the server that feedback and its impact use."""

    settings: Settings
    store: DocumentStore
    indexer: Indexer
    feedback: Feedback
    predictions: Predictions
    permits: Permits
    snapshots: Snapshots
    pipeline: Pipeline
    ablations: Ablations


@dataclass(frozen=True, slots=True)
class Hypothetical:
    """The index without and with a document, and the vectors [passages, dim] of the document."""

    before: Snapshot
    after: Snapshot
    vectors: NDArray[np.float32]


@dataclass(slots=True)
class RecentInput:
    """An input with the request that it came with, in all of ``places``."""

    text: str
    options: AnswerOptions
    places: list[Place]


async def hypothetical(parts: FeedbackParts, document: Document) -> Hypothetical:
    """The index as if a document were written now. Raises ``not-ready``."""
    index, snapshot = parts.indexer.index, parts.snapshots.now()
    engine = snapshot.model().engine
    with engine.use():
        vectors = await asyncio.wrap_future(engine.encode(index.passage_texts(document)))
    encoder_sha = snapshot.model().model.encoder_sha256
    try:
        before, after = await asyncio.to_thread(
            index.as_if, document, vectors, encoder_sha=encoder_sha
        )
    except EncoderChanged:
        raise Problem("not-ready", "The encoder is being changed. Retry.", retry_after=1) from None
    return Hypothetical(
        replace(snapshot, searcher=before), replace(snapshot, searcher=after), vectors
    )


async def impact(parts: FeedbackParts, changed: Hypothetical, field: str) -> dict[str, Any]:
    """Of the recent predictions of a field: how many were answered again, and those that change.

    Those whose label changes come first, then by how far the confidence moves. Raises
    ``queue-full``.
    """
    engine, encoder = changed.before.model().engine, changed.before.model().model.encoder_sha256
    near = await asyncio.to_thread(
        parts.predictions.nearest, changed.vectors, field=field, encoder=encoder
    )
    limit = parts.settings.impact_checked
    inputs = await asyncio.to_thread(_inputs, near[: SCANNED * limit], limit)
    checked, changes = 0, []
    for first in range(0, len(inputs), AT_ONCE):
        group = inputs[first : first + AT_ONCE]
        with parts.permits.take(len(group)), engine.use():
            pairs = await together([_both(parts, changed, one) for one in group])
        for one, pair in zip(group, pairs, strict=True):
            if pair is not None:
                checked += len(one.places)
                changes += _changes(one, *pair)
    changes.sort(key=lambda one: (one["before"]["label"] == one["after"]["label"], -_moved(one)))
    return {"checked": checked, "of": len(near), "changed": changes}


def _inputs(near: Iterable[tuple[Place, RetainedPrediction]], limit: int) -> list[RecentInput]:
    """The first ``limit`` different inputs, in order."""
    inputs: dict[bytes, RecentInput] = {}
    for place, prediction in near:
        output, record = prediction.outputs[place.index], prediction.record()
        if output is None:
            continue
        request = {name: v for name, v in record["request"].items() if name != "input"}
        key = orjson.dumps([output.text, record["route"], request, record["thresholds"]])
        if key in inputs:
            inputs[key].places.append(place)
        elif len(inputs) < limit:
            options = options_of(recorded_request(record), prediction.field)
            plain = replace(options, influence=False, ablation=False)
            inputs[key] = RecentInput(output.text, plain, [place])
    return list(inputs.values())


async def _both(
    parts: FeedbackParts, changed: Hypothetical, one: RecentInput
) -> tuple[Answer, Answer] | None:
    """The answers before and after; None where it cannot be answered any more."""
    text, options, answer = one.text, one.options, parts.pipeline.answer
    text_read = await read(changed.before.model(), text, options.field)
    try:
        before = await answer(changed.before, text, options, text_read=text_read)
        after = await answer(changed.after, text, options, text_read=text_read)
    except Problem:  # a label or a method that it named is gone
        return None
    return before, after


def _changes(one: RecentInput, before: Answer, after: Answer) -> list[dict[str, Any]]:
    moved = abs(after.confidence - before.confidence)
    if before.label == after.label and moved < MOVED:
        return []
    shown = [{"label": a.label, "confidence": a.confidence} for a in (before, after)]
    return [
        {
            "prediction_id": place.prediction_id,
            "index": place.index,
            "before": shown[0],
            "after": shown[1],
        }
        for place in one.places
    ]


def _moved(change: dict[str, Any]) -> float:
    return abs(float(change["after"]["confidence"]) - float(change["before"]["confidence"]))
