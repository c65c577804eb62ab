"""Giving feedback, with what it changes. It knows no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from app.history.predictions import Said
from app.history.records import TASKS
from app.inference.pipeline import Ask
from app.inference.snapshot import Snapshot
from app.manage.annotations import answer_of, confirmed_answer, confirmed_entities, entities_of
from app.manage.correction_impact import impact, suppose
from app.problems import invalid
from app.records.feedback import FeedbackItem
from app.schemas.documents import FeedbackRequest
from app.state import Footnote
from index_data.documents import InvalidDocument, parse_document


async def give(footnote: Footnote, request: FeedbackRequest) -> dict[str, Any]:
    """Record feedback and, if asked, correct the index; the answer of ``POST /feedback``.

    Raises :class:`Problem`.
    """
    if request.apply == "index":
        footnote.open_indexer()  # nothing is written that could not be found at once
    text, field, before = await about(footnote, request)
    feedback_item = feedback_item_of(footnote, request, text, field, before)
    check_example(feedback_item)
    relabels = feedback_item.doc_id is not None and feedback_item.label is not None
    if request.impact and not relabels:
        raise invalid("#/impact", "only a label with apply 'index' changes predictions")
    conflicts = await asyncio.to_thread(footnote.feedback.conflicts, feedback_item)
    supposed = radius = None
    wanted = request.preview if request.impact is None else request.impact
    if relabels and (request.preview or wanted) and footnote.snapshot().serving is not None:
        document = await asyncio.to_thread(footnote.feedback.document_with, feedback_item)
        supposed = await suppose(footnote, document)
    if wanted and supposed is not None:
        radius = await impact(footnote, supposed, field)
    more = {
        "conflicts": conflicts,
        "impact": radius,
        "warnings": novelties(footnote, feedback_item),
    }
    if request.preview:
        after = before
        if supposed is not None:
            after = await answered(footnote, supposed.then, text, field)
        return {**shape(None, None, footnote.store.sequence, before, after), **more}
    recorded = await asyncio.wrap_future(footnote.feedback.record(feedback_item))
    if feedback_item.doc_id is not None:
        await footnote.open_indexer().wait(recorded.sequence)
    judge_ablation(footnote, feedback_item, before)
    after = await now(footnote, text, field) if relabels else before
    return {**shape(recorded.id, recorded.doc_id, recorded.sequence, before, after), **more}


def novelties(footnote: Footnote, feedback_item: FeedbackItem) -> list[str]:
    """A warning where nothing has the label yet: a new one, or one of another field."""
    snapshot = footnote.snapshot()
    if feedback_item.label is None or snapshot.serving is None:
        return []
    heads, index = snapshot.model().model.heads, snapshot.index()

    def has(field: str) -> bool:
        head = heads.get(field)
        return (head is not None and feedback_item.label in head.labels) or (
            feedback_item.label in index.field_labels(field)
        )

    if has(feedback_item.field):
        return []
    others = sorted(field for field in heads if field != feedback_item.field and has(field))
    of = f"; '{others[0]}' has it" if others else ""
    return [f"this label is new to the field '{feedback_item.field}'{of}"]


async def undo(footnote: Footnote, name: str) -> dict[str, Any]:
    """Take feedback back; the answer of ``DELETE /feedback/{id}``. Raises ``not-found``."""
    done = await asyncio.wrap_future(footnote.feedback.undo(name))
    if done.doc_id is not None and footnote.indexer is not None:
        await footnote.indexer.wait(done.sequence)
    return {"id": done.id, "doc_id": done.doc_id, "sequence": done.sequence}


async def about(footnote: Footnote, request: FeedbackRequest) -> tuple[str, str, Said | None]:
    """The text and the field that feedback is about, and what was answered to it before."""
    if (request.prediction_id is None) == (request.input is None):
        raise invalid("#", "give either prediction_id or input")
    if request.prediction_id is not None:
        kept = footnote.predictions.get(request.prediction_id)
        place = request.index or 0
        said = kept.said[place] if place < len(kept.said) else None
        if said is None:
            raise invalid("#/index", "the prediction has no answer to an input of this number")
        if request.field not in (None, kept.field):
            raise invalid("#/field", "the prediction is of another field")
        if request.label is not None and kept.record().get("route") in TASKS:
            raise invalid("#/label", "the prediction has no label: say entities, or an answer")
        return said.text, kept.field, said
    text = request.input
    problem = footnote.pipeline.problem_of(text, "#/input")
    if problem is not None or text is None:
        raise problem or invalid("#/input", "required")
    if request.label is None and request.entities is not None:
        return text, request.field or "ner", None
    if request.label is None and request.answer is not None:
        return text, request.field or "qa", None
    field = request.field or "label"
    return text, field, await now(footnote, text, field)


def feedback_item_of(
    footnote: Footnote, request: FeedbackRequest, text: str, field: str, before: Said | None
) -> FeedbackItem:
    """What the person says, with what follows from it filled in. Raises ``validation``."""
    predicted = None if before is None else before.label
    correct = request.correct
    if correct is None:
        correct = request.label is not None and request.label == predicted
    label = request.label
    if correct and request.prediction_id is not None:
        if label not in (None, predicted):
            raise invalid("#/label", "differs from the prediction, which is said to be correct")
        label = predicted
    entities = None if request.entities is None else entities_of(request.entities, text)
    answer = None if request.answer is None else answer_of(request.answer, text, footnote.store)
    if correct and request.prediction_id is not None and entities is None and answer is None:
        kept = footnote.predictions.get(request.prediction_id)
        entities = confirmed_entities(kept, request.index or 0)
        answer = confirmed_answer(kept, request.index or 0, footnote.store)
    if label is None and entities is None:
        if request.apply == "index":
            raise invalid("#/label", "what goes into the index needs the right label or entities")
        if request.input is not None and answer is None:
            raise invalid("#/label", "the right label is needed, or entities, or an answer")
    return FeedbackItem(
        text=text,
        field=field,
        label=label,
        correct=correct,
        apply=request.apply,
        predicted=predicted,
        prediction_id=request.prediction_id,
        index=request.index or 0,
        entities=entities,
        answer=answer,
    )


def check_example(feedback_item: FeedbackItem) -> None:
    """Raise ``validation`` for what could not be a document."""
    places = {
        "/text": "#/input",
        f"/labels/{feedback_item.field}": "#/label",
        "/metadata": "#/entities",
    }
    labels = {feedback_item.field: feedback_item.label or "none"}
    body = {
        "text": feedback_item.text,
        "labels": labels,
        "metadata": {"entities": feedback_item.entities},
    }
    try:
        parse_document(body)
    except InvalidDocument as error:
        place = "/metadata" if error.pointer.startswith("/metadata") else error.pointer
        raise invalid(places.get(place, "#/field"), error.detail) from None


def judge_ablation(footnote: Footnote, feedback_item: FeedbackItem, before: Said | None) -> None:
    """Count whether retrieval was right where the answer was given with it and without."""
    if before is None or before.closed is None or feedback_item.label is None:
        return
    footnote.ablations.judge(
        feedback_item.field, before.label, before.closed.label, feedback_item.label
    )


async def now(footnote: Footnote, text: str, field: str) -> Said | None:
    """What is answered to a text at this moment; nothing while no model is loaded."""
    return await answered(footnote, footnote.snapshot(), text, field)


async def answered(footnote: Footnote, snapshot: Snapshot, text: str, field: str) -> Said | None:
    """What is answered to a text from one snapshot, where it is whole."""
    if snapshot.serving is None or snapshot.searcher is None:
        return None
    with footnote.permits.take(), snapshot.serving.engine.use():
        answer = await footnote.pipeline.answer(snapshot, text, Ask(field=field))
    return Said(text, answer.label, answer.confidence)


def shape(
    name: str | None, doc_id: str | None, sequence: int, before: Said | None, after: Said | None
) -> dict[str, Any]:
    """The answer's JSON."""
    told = [
        None if said is None else {"label": said.label, "confidence": said.confidence}
        for said in (before, after)
    ]
    changed = []
    if told[0] is not None and told[1] is not None:
        changed = [key for key in ("label", "confidence") if told[0][key] != told[1][key]]
    return {
        "id": name,
        "doc_id": doc_id,
        "sequence": sequence,
        "before": told[0],
        "after": told[1],
        "changed": changed,
    }
