"""Giving feedback, with what it changes. It knows no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from app.history.predictions import Output
from app.history.records import is_of_labels
from app.inference.ablation import Ablations
from app.inference.answer import AnswerOptions
from app.inference.indexer import Indexer
from app.inference.snapshot import Snapshot
from app.manage.annotations import answer_of, confirmed_answer, confirmed_entities, entities_of
from app.manage.correction_impact import FeedbackParts, hypothetical, impact
from app.predict.inputs import text_input
from app.problems import Problem, invalid
from app.records.feedback import Feedback, FeedbackItem
from app.schemas.documents import FeedbackRequest, UndoResponse
from index_data.documents import InvalidDocument, parse_document


async def give(parts: FeedbackParts, request: FeedbackRequest) -> dict[str, Any]:
    """Record feedback and, if requested, correct the index; the answer of ``POST /feedback``.

    Raises :class:`Problem`.
    """
    if request.apply == "index":
        parts.indexer.check_open()  # nothing is written that could not be found at once
    text, field, before = await subject(parts, request)
    item = item_of(parts, request, text, field, before)
    check_example(item)
    relabels = item.doc_id is not None and item.label is not None
    if request.impact and not relabels:
        raise invalid("#/impact", "only a label with apply 'index' changes predictions")
    conflicts = await asyncio.to_thread(parts.feedback.conflicts, item)
    changed = affected = None
    with_impact = request.preview if request.impact is None else request.impact
    if relabels and (request.preview or with_impact) and parts.snapshots.now().serving is not None:
        document = await asyncio.to_thread(parts.feedback.document_with, item)
        changed = await hypothetical(parts, document)
    if with_impact and changed is not None:
        affected = await impact(parts, changed, field)
    more = {
        "conflicts": conflicts,
        "impact": affected,
        "warnings": new_label(parts.snapshots.now(), item),
    }
    if request.preview:
        after = before
        if changed is not None:
            after = await answered(parts, changed.after, text, field)
        return {**shape(None, None, parts.store.sequence, before, after), **more}
    recorded = await asyncio.wrap_future(parts.feedback.record(item))
    if item.doc_id is not None:
        await parts.indexer.wait(recorded.sequence)
    judge_ablation(parts.ablations, item, before)
    after = await answered(parts, parts.snapshots.now(), text, field) if relabels else before
    return {**shape(recorded.id, recorded.doc_id, recorded.sequence, before, after), **more}


def new_label(snapshot: Snapshot, item: FeedbackItem) -> list[str]:
    """A warning where the field does not have the label yet."""
    if item.label is None or snapshot.serving is None:
        return []
    heads, index = snapshot.model().model.heads, snapshot.index()

    def has(field: str) -> bool:
        head = heads.get(field)
        return (head is not None and item.label in head.labels) or (
            item.label in index.field_labels(field)
        )

    if has(item.field):
        return []
    others = sorted(field for field in heads if field != item.field and has(field))
    of = f"; '{others[0]}' has it" if others else ""
    return [f"this label is new to the field '{item.field}'{of}"]


async def undo(feedback: Feedback, indexer: Indexer, name: str) -> UndoResponse:
    """Take feedback back; the answer of ``DELETE /feedback/{id}``. Raises ``not-found``."""
    done = await asyncio.wrap_future(feedback.undo(name))
    if done.doc_id is not None:
        await indexer.wait(done.sequence)
    return UndoResponse.model_validate(done)


async def subject(parts: FeedbackParts, request: FeedbackRequest) -> tuple[str, str, Output | None]:
    """The text and the field that feedback is about, and what was answered to it before."""
    if (request.prediction_id is None) == (request.input is None):
        raise invalid("#", "give either prediction_id or input")
    if request.prediction_id is not None:
        prediction = parts.predictions.get(request.prediction_id)
        place = request.index or 0
        output = prediction.outputs[place] if place < len(prediction.outputs) else None
        if output is None:
            raise invalid("#/index", "the prediction has no answer to an input of this number")
        if request.field not in (None, prediction.field):
            raise invalid("#/field", "the prediction is of another field")
        if request.label is not None and not is_of_labels(prediction.record()):
            raise invalid("#/label", "the prediction has no label: give entities, or an answer")
        return output.text, prediction.field, output
    read = text_input(request.input, "#/input", parts.settings.max_input_chars)
    if isinstance(read, Problem):
        raise read
    text = read.text
    if request.label is None and request.entities is not None:
        return text, request.field or "ner", None
    if request.label is None and request.answer is not None:
        return text, request.field or "qa", None
    field = request.field or "label"
    return text, field, await answered(parts, parts.snapshots.now(), text, field)


def item_of(
    parts: FeedbackParts, request: FeedbackRequest, text: str, field: str, before: Output | None
) -> FeedbackItem:
    """The feedback as it is recorded, with what follows from it. Raises ``validation``."""
    predicted = None if before is None else before.label
    correct = request.correct
    if correct is None:
        correct = request.label is not None and request.label == predicted
    label = request.label
    if correct and request.prediction_id is not None:
        if label not in (None, predicted):
            raise invalid(
                "#/label", "differs from the prediction, which the feedback calls correct"
            )
        label = predicted
    entities = None if request.entities is None else entities_of(request.entities, text)
    answer = None if request.answer is None else answer_of(request.answer, text, parts.store)
    if correct and request.prediction_id is not None and entities is None and answer is None:
        prediction = parts.predictions.get(request.prediction_id)
        entities = confirmed_entities(prediction, request.index or 0)
        answer = confirmed_answer(prediction, request.index or 0, parts.store)
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


def check_example(item: FeedbackItem) -> None:
    """Raise ``validation`` for what could not be a document."""
    pointers = {"/text": "#/input", f"/labels/{item.field}": "#/label", "/metadata": "#/entities"}
    labels, metadata = {item.field: item.label or "none"}, {"entities": item.entities}
    try:
        parse_document({"text": item.text, "labels": labels, "metadata": metadata})
    except InvalidDocument as error:
        place = "/metadata" if error.pointer.startswith("/metadata") else error.pointer
        raise invalid(pointers.get(place, "#/field"), error.detail) from None


def judge_ablation(ablations: Ablations, item: FeedbackItem, before: Output | None) -> None:
    """Count whether retrieval was right where the answer was given with it and without."""
    if before is None or before.closed is None or item.label is None:
        return
    ablations.judge(item.field, before.label, before.closed.label, item.label)


async def answered(
    parts: FeedbackParts, snapshot: Snapshot, text: str, field: str
) -> Output | None:
    """The answer to a text from one snapshot; None where it has no model or no index."""
    if snapshot.serving is None or snapshot.searcher is None:
        return None
    with parts.permits.take(), snapshot.serving.engine.use():
        answer = await parts.pipeline.answer(snapshot, text, AnswerOptions(field=field))
    return Output(text, answer.label, answer.confidence)


def shape(
    name: str | None, doc_id: str | None, sequence: int, before: Output | None, after: Output | None
) -> dict[str, Any]:
    """The answer's JSON."""
    shown = [
        None if output is None else {"label": output.label, "confidence": output.confidence}
        for output in (before, after)
    ]
    changed = []
    if shown[0] is not None and shown[1] is not None:
        changed = [key for key in ("label", "confidence") if shown[0][key] != shown[1][key]]
    return {
        "id": name,
        "doc_id": doc_id,
        "sequence": sequence,
        "before": shown[0],
        "after": shown[1],
        "changed": changed,
    }
