"""The last predictions: the request, the answer, and the record that it is replayed from.

They are retained in memory, packed; with ``FOOTNOTE_STORE_PREDICTIONS=1`` as many in the document
store too, where they outlive a restart. A document that is erased goes from all of them.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.history.recent_vectors import Place, RecentVectors
from app.inference.ablation import ClosedBook
from app.problems import Problem
from index_data.documents import normalise
from index_data.storage.store import DocumentStore

logger = logging.getLogger(__name__)

RETAINED = 10_000
UNWRITTEN = 1_000  # predictions on their way to a disk that is slow; more are not stored
REMEMBERED = 1_000  # erasures that answers under way are compared with
PAGE = 200
_TABLE = (
    "CREATE TABLE IF NOT EXISTS predictions "
    "(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL)"
)


@dataclass(frozen=True, slots=True)
class Output:
    """The answer to one input, as far as feedback needs it."""

    text: str  # of the input
    label: str | None = None
    confidence: float | None = None
    closed: ClosedBook | None = None  # the answer with retrieval off, where it was given too


@dataclass(frozen=True, slots=True)
class RetainedPrediction:
    """One prediction: the answer as it was sent, and the record that it can be replayed from."""

    field: str
    outputs: tuple[Output | None, ...]  # None: that input was bad
    packed: bytes

    @classmethod
    def of(
        cls, field: str, outputs: Sequence[Output | None], body: bytes, record: Any
    ) -> RetainedPrediction:
        """Packed: ten thousand answers with their citations are 100 MB otherwise."""
        whole = {"answer": orjson.Fragment(body), "record": record}
        return cls(field, tuple(outputs), zlib.compress(orjson.dumps(whole), 1))

    def answer(self) -> Any:
        """The answer's JSON."""
        return self._unpacked()["answer"]

    def record(self) -> Any:
        """What it was answered from."""
        return self._unpacked()["record"]

    def stored(self) -> bytes:
        """The form in which it is on the disk."""
        outputs = [o and [o.text, o.label, o.confidence] for o in self.outputs]
        whole = {"field": self.field, "said": outputs, **self._unpacked()}
        return zlib.compress(orjson.dumps(whole))

    @classmethod
    def restored(cls, stored: bytes) -> RetainedPrediction:
        """The inverse of :meth:`stored`."""
        raw = orjson.loads(zlib.decompress(stored))
        outputs = [o and Output(*o) for o in raw["said"]]
        return cls.of(raw["field"], outputs, orjson.dumps(raw["answer"]), raw["record"])

    def without(self, doc_id: str, text: str | None) -> RetainedPrediction | None:
        """The same with nothing of an erased document in it; None: it is of that very text."""
        if text is not None and any(o and normalise(o.text) == text for o in self.outputs):
            return None
        raw = self._unpacked()
        blank: dict[str, Any] = {
            "text": "",
            "title": None,
            "label": None,
            "metadata": {},
            "erased": True,
        }
        for item in raw["answer"]["data"]:
            output = item.get("output") or {}
            cited = [c for c in item.get("citations") or () if c["doc_id"] == doc_id]
            for citation in cited:
                citation |= blank
            for one in (output, *(output.get("alternatives") or ())):
                if one.get("doc_id") == doc_id:  # an answer is a piece of its document
                    one["answer"] = ""
            if cited:
                take_text_out(output)  # a text generated from the document may repeat it
        for given in raw["record"]["inputs"]:
            if given and any(hit[0] == doc_id for hit in given["hits"]):
                given |= {"hits": [], "erased": True}
        body = orjson.dumps(raw["answer"])
        return RetainedPrediction.of(self.field, self.outputs, body, raw["record"])

    def mentions(self, doc_id: str, text: str | None) -> bool:
        """Whether a document is cited, or was counted, or is the text that was asked about."""
        if text is not None and any(o and normalise(o.text) == text for o in self.outputs):
            return True
        return orjson.dumps(doc_id) in zlib.decompress(self.packed)

    def _unpacked(self) -> dict[str, Any]:
        unpacked: dict[str, Any] = orjson.loads(zlib.decompress(self.packed))
        return unpacked


class Predictions:
    """The last :data:`RETAINED` predictions. Safe to use from several threads."""

    def __init__(self, store: DocumentStore | None = None, *, limit: int = RETAINED) -> None:
        """``store``: where they are retained over restarts."""
        self._limit = limit
        self._retained: OrderedDict[str, RetainedPrediction] = OrderedDict()
        self._recent = RecentVectors(limit)
        self._lock = threading.Lock()
        self._store = store
        self._unwritten = 0
        self._erased: OrderedDict[str, tuple[str | None, int]] = OrderedDict()
        if store is not None:
            store.write(lambda c: c.execute(_TABLE)).result()

    def __len__(self) -> int:
        return len(self._retained)

    def keep(
        self,
        name: str,
        *,
        field: str,
        outputs: Sequence[Output | None],
        body: bytes,
        record: Any = None,
        vectors: Sequence[NDArray[np.float32] | None] = (),
        encoder: str = "",
    ) -> None:
        """Keep one; the oldest goes when there are too many.

        ``vectors``: [dim] of each input that a new document may be compared with, by ``encoder``.
        """
        retained = RetainedPrediction.of(field, outputs, body, record or {"inputs": []})
        with self._lock:
            for doc_id, text in self._gone(record):
                left = retained.without(doc_id, text)
                if left is None:
                    return
                retained = left
            self._retained[name] = retained
            for place, vector in enumerate(vectors):
                if vector is not None:
                    self._recent.add(Place(name, place, field), vector, encoder)
            while len(self._retained) > self._limit:
                self._retained.popitem(last=False)
        if self._store is not None:
            self._write(self._store, name, retained)

    def get(self, name: str) -> RetainedPrediction:
        """One prediction. Raises ``not-found``."""
        retained = self._retained.get(name) or self._stored(name)
        if retained is None:
            raise Problem("not-found", "No prediction with this id is kept.")
        return retained

    def nearest(
        self, passages: NDArray[np.float32], *, field: str, encoder: str
    ) -> list[tuple[Place, RetainedPrediction]]:
        """The inputs in memory of a field, the nearest to any of ``passages`` [n, dim] first."""
        places = self._recent.nearest(passages, field, encoder)
        matches = ((place, self._retained.get(place.prediction_id)) for place in places)
        return [(place, retained) for place, retained in matches if retained is not None]

    def last(self) -> str | None:
        """The id of the newest, if any."""
        with self._lock:
            return next(reversed(self._retained), None)

    def _gone(self, record: Any) -> list[tuple[str, str | None]]:
        """The documents that were erased while a prediction was being made from them."""
        if not self._erased or record is None:
            return []
        hits = [hit for given in record["inputs"] if given for hit in given["hits"]]
        used = {hit[0]: hit[1] for hit in hits if hit[0] in self._erased}
        return [
            (doc_id, self._erased[doc_id][0])
            for doc_id, version in used.items()
            if version <= self._erased[doc_id][1]
        ]

    def erase(self, doc_id: str, text: str | None, sequence: int) -> tuple[int, int]:
        """Take a document out of them: how many there were in memory, and on the disk.

        ``text``: its own, normalised; predictions of that very text go altogether. ``sequence``:
        of the erasure. Blocks for as long as it takes to read them all.
        """
        with self._lock:
            self._erased[doc_id] = (text, sequence)
            while len(self._erased) > REMEMBERED:
                self._erased.popitem(last=False)
            retained = list(self._retained.items())
        matching = [(name, one) for name, one in retained if one.mentions(doc_id, text)]
        gone = set()
        for name, one in matching:
            left = one.without(doc_id, text)
            with self._lock:
                if left is None:
                    gone.add(name)
                    self._retained.pop(name, None)
                elif name in self._retained:
                    self._retained[name] = left
        self._recent.forget(gone)
        return len(matching), self._erase_stored(doc_id, text)

    def _write(self, store: DocumentStore, name: str, retained: RetainedPrediction) -> None:
        if self._unwritten >= UNWRITTEN:
            logger.warning("a prediction was not stored: the disk does not keep up")
            return
        self._unwritten += 1
        limit = self._limit

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO predictions (id, body) VALUES (?, ?)", (name, retained.stored())
            )
            connection.execute(
                "DELETE FROM predictions WHERE number <= (SELECT max(number) FROM predictions) - ?",
                (limit,),
            )

        store.write(write).add_done_callback(self._written)

    def _written(self, done: Future[None]) -> None:
        self._unwritten -= 1
        error = done.exception()
        if error is not None:
            logger.warning("a prediction was not stored: %s", error)

    def _stored(self, name: str) -> RetainedPrediction | None:
        if self._store is None:
            return None
        with self._store.read() as connection:
            row = connection.execute(
                "SELECT body FROM predictions WHERE id = ?", (name,)
            ).fetchone()
        return None if row is None else RetainedPrediction.restored(row[0])

    def _erase_stored(self, doc_id: str, text: str | None) -> int:
        if self._store is None:
            return 0
        self._store.write(lambda c: None).result()  # those on their way are there now
        count = 0
        for number, retained in self._all_stored(self._store):
            if retained.mentions(doc_id, text):
                count += 1
                self._store.write(_replacing(number, retained.without(doc_id, text))).result()
        return count

    def _all_stored(self, store: DocumentStore) -> Iterator[tuple[int, RetainedPrediction]]:
        number = 0
        while True:
            with store.read() as connection:
                rows = connection.execute(
                    "SELECT number, body FROM predictions WHERE number > ? ORDER BY number LIMIT ?",
                    (number, PAGE),
                ).fetchall()
            if not rows:
                return
            for number, body in rows:
                yield number, RetainedPrediction.restored(body)


def take_text_out(output: dict[str, Any]) -> None:
    """Empty the text of an output that was generated or quoted."""
    if "sentences" in output:
        output["sentences"] = []
        if "message" in output:
            output["message"]["content"] = ""
        else:
            output["text"] = ""


def _replacing(
    number: int, retained: RetainedPrediction | None
) -> Callable[[sqlite3.Connection], Any]:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA secure_delete = ON")
        if retained is None:
            connection.execute("DELETE FROM predictions WHERE number = ?", (number,))
        else:
            connection.execute(
                "UPDATE predictions SET body = ? WHERE number = ?", (retained.stored(), number)
            )
        connection.execute("PRAGMA secure_delete = OFF")

    return write
