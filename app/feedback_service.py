"""Giving feedback, with what it changes. It knows no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from app.feedback import Opinion, example
from app.pipeline import Answer, Ask
from app.predictions import Said
from app.problems import invalid
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
    opinion = opinion_of(request, text, field, before)
    check_example(opinion)
    conflicts = await asyncio.to_thread(footnote.feedback.conflicts, opinion)
    if request.preview:
        after = await preview(footnote, opinion)
        shown = shape(None, None, footnote.store.sequence, before, after)
        return {**shown, "conflicts": conflicts}
    recorded = await asyncio.wrap_future(footnote.feedback.record(opinion))
    if opinion.doc_id is not None:
        await footnote.open_indexer().wait(recorded.sequence)
    judge_ablation(footnote, opinion, before)
    after = await now(footnote, text, field) if opinion.doc_id is not None else before
    shown = shape(recorded.id, recorded.doc_id, recorded.sequence, before, after)
    return {**shown, "conflicts": conflicts}


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
        return said.text, kept.field, said
    text, field = request.input, request.field or "label"
    problem = footnote.pipeline.problem_of(text, "#/input")
    if problem is not None or text is None:
        raise problem or invalid("#/input", "required")
    return text, field, await now(footnote, text, field)


def opinion_of(request: FeedbackRequest, text: str, field: str, before: Said | None) -> Opinion:
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
    if label is None and (request.apply == "index" or request.input is not None):
        raise invalid("#/label", "the right label is needed")
    return Opinion(
        text=text,
        field=field,
        label=label,
        correct=correct,
        apply=request.apply,
        predicted=predicted,
        prediction_id=request.prediction_id,
        index=request.index or 0,
    )


def check_example(opinion: Opinion) -> None:
    """Raise ``validation`` for what could not be a document."""
    places = {"/text": "#/input", f"/labels/{opinion.field}": "#/label"}
    body = {"text": opinion.text, "labels": {opinion.field: opinion.label or "none"}}
    try:
        parse_document(body)
    except InvalidDocument as error:
        raise invalid(places.get(error.pointer, "#/field"), error.detail) from None


def judge_ablation(footnote: Footnote, opinion: Opinion, before: Said | None) -> None:
    """Count whether retrieval was right where the answer was given with it and without."""
    if before is None or before.closed is None or opinion.label is None:
        return
    footnote.ablations.judge(opinion.field, before.label, before.closed.label, opinion.label)


async def now(footnote: Footnote, text: str, field: str) -> Said | None:
    """What is answered to a text at this moment; nothing while no model is loaded."""
    return await answered(footnote, text, field, None)


async def preview(footnote: Footnote, opinion: Opinion) -> Said | None:
    """What would be answered if the correction were in the index."""
    return await answered(footnote, opinion.text, opinion.field, opinion)


async def answered(
    footnote: Footnote, text: str, field: str, opinion: Opinion | None
) -> Said | None:
    """What is answered to a text, as if ``opinion`` were in the index."""
    snapshot = footnote.snapshot()
    if snapshot.serving is None or snapshot.searcher is None:
        return None
    hypothetical = None
    if opinion is not None and opinion.apply == "index" and opinion.label is not None:
        hypothetical = example(opinion)
    with footnote.permits.take(), snapshot.serving.engine.use():
        answer: Answer = await footnote.pipeline.answer(
            snapshot, text, Ask(field=field), preview=hypothetical
        )
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
