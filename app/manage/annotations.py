"""What feedback gives for a text beside a label: its named entities, and the answer to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.history.predictions import RetainedPrediction
from app.problems import FieldError, Problem, invalid
from app.schemas.documents import AnswerGiven, EntityGiven
from index_data.storage.store import DocumentStore


def entities_of(given: Sequence[EntityGiven], text: str) -> list[dict[str, Any]]:
    """The entities in the order of the text, each with its own. Raises ``validation``.

    Offsets count code points of ``text``; spans may touch and not overlap.
    """
    errors = []
    order = sorted(range(len(given)), key=lambda i: (given[i].start, given[i].end))
    reached = 0
    for i in order:
        entity, pointer = given[i], f"#/entities/{i}"
        if entity.end > len(text):
            errors.append(FieldError(f"{pointer}/end", f"the text has {len(text)} characters"))
        elif entity.end <= entity.start:
            errors.append(FieldError(f"{pointer}/end", "must be greater than start"))
        elif entity.start < reached:
            errors.append(FieldError(f"{pointer}/start", "overlaps another entity"))
        else:
            reached = entity.end
    if errors:
        raise Problem("validation", "The request is not valid.", errors=errors)
    return [
        {"start": e.start, "end": e.end, "type": e.type, "text": text[e.start : e.end]}
        for e in (given[i] for i in order)
    ]


def answer_of(given: AnswerGiven, text: str, store: DocumentStore) -> dict[str, Any]:
    """An answer whose place, if it has one, holds its text. Raises ``validation``.

    The place is in the document that is named, else in ``text``; it counts code points.
    """
    if given.doc_id is not None:
        document = store.get(given.doc_id)
        if document is None:
            raise invalid("#/answer/doc_id", "there is no document with this id")
        text = document.text
    if given.start is None and given.end is None:
        return given.model_dump()
    if given.start is None or given.end is None:
        missing = "start" if given.start is None else "end"
        raise invalid(f"#/answer/{missing}", "start and end come together")
    if given.end > len(text):
        raise invalid("#/answer/end", f"the text has {len(text)} characters")
    if given.end <= given.start:
        raise invalid("#/answer/end", "must be greater than start")
    if text[given.start : given.end] != given.text:
        raise invalid("#/answer/text", "is not what stands from start to end")
    return given.model_dump()


def confirmed_entities(prediction: RetainedPrediction, place: int) -> list[dict[str, Any]] | None:
    """The entities of a prediction that feedback calls correct; None where it did not show all."""
    record = prediction.record() or {}
    if record.get("route") != "ner" or any(record["thresholds"]):
        return None
    if (record["request"].get("params") or {}).get("labels") is not None:
        return None
    entities = prediction.answer()["data"][place]["output"]["entities"]
    return [{name: e[name] for name in ("start", "end", "type", "text")} for e in entities]


def confirmed_answer(
    prediction: RetainedPrediction, place: int, store: DocumentStore
) -> dict[str, Any] | None:
    """The answer of a prediction that feedback calls correct; its place only if it still stands."""
    if (prediction.record() or {}).get("route") != "qa":
        return None
    output = prediction.answer()["data"][place]["output"]
    if not output["answer"]:
        return None
    document = store.get(output["doc_id"]) if output["doc_id"] is not None else None
    there = (
        document is not None and document.text[output["start"] : output["end"]] == output["answer"]
    )
    where = {name: output[name] if there else None for name in ("start", "end", "doc_id")}
    return {"text": output["answer"], **where}
