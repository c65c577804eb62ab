"""Feedback as it is kept: one row for each, durable, and what it makes of a document.

All corrections of one text that were to go into the index make one document, whose labels are
those of the corrections that stand; undoing one leaves what the others say. The id of a feedback
is made from what it says, so the same again is the same feedback.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import orjson

from app.problems import Problem
from index_data.documents import Document, normalise
from index_data.storage.store import (
    DocumentStore,
    ReadOnlyStore,
    delete_documents,
    upsert_documents,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    doc_id TEXT,
    body BLOB NOT NULL
)
"""
PAGE = 500
SOURCE: Final = "feedback"  # `metadata.source` of the documents that corrections make


def feedback_id(text: str) -> str:
    """The id of the document that corrections of this text make; equal texts share it."""
    return f"{SOURCE}-{hashlib.sha256(normalise(text).encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackItem:
    """What a person said about a text."""

    text: str
    field: str
    label: str | None
    correct: bool
    apply: str
    predicted: str | None
    prediction_id: str | None
    index: int
    entities: list[dict[str, Any]] | None = None
    answer: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The feedback's id: of what the person said, not of what the model had said."""
        given = (self.text, self.field, self.label, self.apply, self.prediction_id, self.index)
        more = [one for one in (self.entities, self.answer) if one is not None]
        body = orjson.dumps([*given, None if self.label else self.correct, *more])
        return f"fb_{hashlib.sha256(body).hexdigest()[:24]}"

    @property
    def doc_id(self) -> str | None:
        """The document that it is part of, if it goes into the index."""
        if self.apply != "index" or (self.label is None and self.entities is None):
            return None
        return feedback_id(self.text)

    def contradicts(self, other: FeedbackItem) -> bool:
        """Whether both cannot be right: another label in one field, or other entities."""
        labels = self.label, other.label
        if self.field == other.field and None not in labels and self.label != other.label:
            return True
        both = self.entities is not None and other.entities is not None
        return both and self.text == other.text and self.entities != other.entities

    def to_json(self) -> dict[str, Any]:
        """A line of the export: training data with where it comes from."""
        return {"id": self.id, "doc_id": self.doc_id, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recording or undoing did: the document it concerns and the write's sequence."""

    id: str
    doc_id: str | None
    sequence: int


class Feedback:
    """The table of feedback in the document store."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        store.write(_create_table).result()

    def record(self, feedback_item: FeedbackItem) -> Future[Recorded]:
        """Keep it, and with ``apply`` = ``index`` write its document, in one commit."""
        body = {"created": time.time(), **asdict(feedback_item)}

        def write(connection: sqlite3.Connection) -> Recorded:
            connection.execute(
                "INSERT OR REPLACE INTO feedback VALUES "
                "(?, (SELECT 1 + ifnull(max(number), 0) FROM feedback), ?, ?)",
                (feedback_item.id, feedback_item.doc_id, orjson.dumps(body)),
            )
            doc_id = feedback_item.doc_id
            return Recorded(feedback_item.id, doc_id, _fold(connection, doc_id))

        return self._store.write(write)

    def undo(self, name: str) -> Future[Recorded]:
        """Take one back. The future raises ``not-found`` when there is none of this id."""

        def write(connection: sqlite3.Connection) -> Recorded:
            row = connection.execute("SELECT doc_id FROM feedback WHERE id = ?", (name,)).fetchone()
            if row is None:
                raise Problem(
                    "not-found", "There is no feedback with this id, or it was taken back already."
                )
            connection.execute("DELETE FROM feedback WHERE id = ?", (name,))
            return Recorded(name, row[0], _fold(connection, row[0]))

        return self._store.write(write)

    def conflicts(self, feedback_item: FeedbackItem) -> list[dict[str, Any]]:
        """Earlier corrections of this text into the index that contradict this one.

        The newest first; the newest of all counts.
        """
        return [
            {"id": one.id, "label": one.label, "created": created}
            for created, one in reversed(self._others(feedback_item))
            if feedback_item.contradicts(one)
        ]

    def document_with(self, feedback_item: FeedbackItem) -> Document:
        """The document that the corrections of this text would make with this one."""
        return document_of([*(one for _, one in self._others(feedback_item)), feedback_item])

    def _others(self, feedback_item: FeedbackItem) -> list[tuple[float, FeedbackItem]]:
        """What else stands of its document, the oldest first, with when it was given."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT body FROM feedback WHERE doc_id = ? AND id != ? ORDER BY number",
                (feedback_item.doc_id, feedback_item.id),
            ).fetchall()
        raws = [orjson.loads(body) for (body,) in rows]
        return [(raw["created"], _decode(raw)) for raw in raws]

    def export(self) -> Iterator[dict[str, Any]]:
        """Every feedback in the order it was given, a page at a time."""
        number = 0
        while True:
            with self._store.read() as connection:
                rows = connection.execute(
                    "SELECT number, body FROM feedback WHERE number > ? ORDER BY number LIMIT ?",
                    (number, PAGE),
                ).fetchall()
            if not rows:
                return
            for _, body in rows:
                raw = orjson.loads(body)
                yield {"created": raw["created"], **_decode(raw).to_json()}
            number = rows[-1][0]


def feedback_items(
    store: ReadOnlyStore, field: str, given: Literal["label", "entities", "answer"]
) -> list[FeedbackItem]:
    """Feedback on ``field`` in which people gave a label, entities or an answer: the newest a text.

    It reads only, also from a store in which nobody has ever given feedback.
    """
    newest: dict[str, FeedbackItem] = {}
    with store.read() as connection:
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'feedback'"
        if connection.execute(known).fetchone() is None:
            return []
        rows = connection.execute("SELECT body FROM feedback ORDER BY number").fetchall()
    for (body,) in rows:
        one = _decode(orjson.loads(body))
        if one.field == field and getattr(one, given) is not None:
            newest.pop(normalise(one.text), None)
            newest[normalise(one.text)] = one
    return list(newest.values())


def document_of(feedback_items: Sequence[FeedbackItem]) -> Document:
    """The document that corrections of one text make; of those that differ the last counts."""
    labels: dict[str, str | list[str]] = {
        o.field: o.label for o in feedback_items if o.label is not None
    }
    metadata: dict[str, Any] = {"source": SOURCE}
    marked = [o for o in feedback_items if o.entities is not None]
    # Offsets belong to the text as it was sent, which others may have sent with other spaces.
    text = (marked or feedback_items)[-1].text
    if marked:
        metadata["entities"] = marked[-1].entities
    return Document(id=feedback_id(text), text=text, labels=labels, metadata=metadata)


def _fold(connection: sqlite3.Connection, doc_id: str | None) -> int:
    """Write the document that the feedback standing now makes; the sequence it is at."""
    if doc_id is None:
        return int(connection.execute("SELECT value FROM sequence").fetchone()[0])
    rows = connection.execute(
        "SELECT body FROM feedback WHERE doc_id = ? ORDER BY number", (doc_id,)
    ).fetchall()
    feedback_items = [_decode(orjson.loads(body)) for (body,) in rows]
    if not feedback_items:
        return delete_documents(connection, [doc_id]).sequence
    return upsert_documents(connection, [document_of(feedback_items)]).sequence


def _create_table(connection: sqlite3.Connection) -> None:
    connection.execute(SCHEMA)
    connection.execute("CREATE INDEX IF NOT EXISTS feedback_by_document ON feedback (doc_id)")


def _decode(raw: dict[str, Any]) -> FeedbackItem:
    return FeedbackItem(**{k: v for k, v in raw.items() if k != "created"})
