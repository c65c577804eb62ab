"""The impact of a correction: which of the recent predictions it changes.

The index with the correction is made beside the one that serves, from the same state, and thrown
away. Of the predictions that are kept those nearest to the corrected text are asked again, as they
were asked, from both; each text is read once. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.history.predictions import Kept
from app.history.recent_vectors import Place
from app.inference.pipeline import Answer, Ask, together
from app.inference.snapshot import Snapshot
from app.predict.replay import asked
from app.problems import Problem
from app.state import Footnote
from index_data.documents import Document
from index_data.generations.index import EncoderChanged

AT_ONCE = 8  # predictions asked again together: other requests come between
SCANNED = 8  # predictions looked at for each that may be asked again; equal ones are asked once
MOVED = 0.01  # a change of confidence that is told without a change of the label


@dataclass(frozen=True, slots=True)
class Supposed:
    """The index as it is and as it would be, and the vectors [passages, dim] of what it gains."""

    now: Snapshot
    then: Snapshot
    vectors: NDArray[np.float32]


@dataclass(slots=True)
class Question:
    """What was asked in all of ``places``."""

    text: str
    ask: Ask
    places: list[Place]


async def suppose(footnote: Footnote, document: Document) -> Supposed:
    """What would be if a document were written now. Raises ``not-ready``."""
    index, snapshot = footnote.open_index(), footnote.snapshot()
    engine = snapshot.model().engine
    with engine.use():
        vectors = await asyncio.wrap_future(engine.encode(index.passage_texts(document)))
    encoder_sha = snapshot.model().model.encoder_sha256
    try:
        before, after = await asyncio.to_thread(
            index.as_if, document, vectors, encoder_sha=encoder_sha
        )
    except EncoderChanged:
        raise Problem("not-ready", "The encoder is being changed.", retry_after=1) from None
    now = replace(snapshot, searcher=before)
    return Supposed(now, replace(snapshot, searcher=after), vectors)


async def impact(footnote: Footnote, supposed: Supposed, field: str) -> dict[str, Any]:
    """Of the recent predictions of a field: how many were asked again, and those that change.

    Those whose label changes come first, then by how far the confidence moves. Raises
    ``queue-full``.
    """
    encoder = supposed.now.model().model.encoder_sha256
    near = await asyncio.to_thread(
        footnote.predictions.nearest, supposed.vectors, field=field, encoder=encoder
    )
    limit = footnote.settings.impact_checked
    questions = await asyncio.to_thread(_questions, footnote, near[: SCANNED * limit], limit)
    checked, changed = 0, []
    for first in range(0, len(questions), AT_ONCE):
        group = questions[first : first + AT_ONCE]
        with footnote.permits.take(len(group)), supposed.now.model().engine.use():
            pairs = await together([_both(footnote, supposed, one) for one in group])
        for question, pair in zip(group, pairs, strict=True):
            if pair is not None:
                checked += len(question.places)
                changed += _changes(question, *pair)
    changed.sort(key=lambda one: (one["before"]["label"] == one["after"]["label"], -_moved(one)))
    return {"checked": checked, "of": len(near), "changed": changed}


def _questions(
    footnote: Footnote, near: Iterable[tuple[Place, Kept]], limit: int
) -> list[Question]:
    """The first ``limit`` different questions, in order."""
    found: dict[bytes, Question] = {}
    for place, kept in near:
        said, record = kept.said[place.index], kept.record()
        if said is None:
            continue
        request = {name: v for name, v in record["request"].items() if name != "input"}
        key = orjson.dumps([said.text, record["route"], request, record["thresholds"]])
        if key in found:
            found[key].places.append(place)
        elif len(found) < limit:
            ask = replace(asked(record, footnote.settings), influence=False, ablation=False)
            found[key] = Question(said.text, ask, [place])
    return list(found.values())


async def _both(
    footnote: Footnote, supposed: Supposed, question: Question
) -> tuple[Answer, Answer] | None:
    """The answers now and then; None where it can no longer be asked."""
    text, ask = question.text, question.ask
    read = await asyncio.wrap_future(supposed.now.model().engine.read(text, ask.field))
    try:
        before = await footnote.pipeline.answer(supposed.now, text, ask, read=read)
        after = await footnote.pipeline.answer(supposed.then, text, ask, read=read)
    except Problem:  # a label or a method that it named is gone
        return None
    return before, after


def _changes(question: Question, before: Answer, after: Answer) -> list[dict[str, Any]]:
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
        for place in question.places
    ]


def _moved(change: dict[str, Any]) -> float:
    return abs(float(change["after"]["confidence"]) - float(change["before"]["confidence"]))
