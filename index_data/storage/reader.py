"""Reading the store: by id, in pages, by sequence; every row is verified as it is read.

Reads run beside the writer (SQLite's WAL) and see whole commits only. A row whose checksum does
not hold is left out and remembered (:meth:`ReadOnlyStore.damaged`), and the rest is served.
"""

from __future__ import annotations

import base64
import binascii
import logging
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from pathlib import Path
from typing import Any

import orjson

from index_data.documents import Document
from index_data.segment.filters import Filter
from index_data.storage.database import FILE_NAME, StoreCorrupt, connect, open_database, translated
from index_data.storage.rows import Tombstone, current_sequence, decode
from index_data.storage.vectors import StoredVectors, group

logger = logging.getLogger(__name__)

# Written out because the method ``list`` hides the type of that name inside the class.
Documents = list[Document]
Batches = Iterator[list[Document]]
Names = list[str]
Changes = Iterator[Document | Tombstone]
Rows = list[tuple[Any, ...]]

_PAGE = 1_000
_MAX_NAMED = 1_000


class InvalidCursor(ValueError):
    """A cursor that no listing gave out."""


class ReadOnlyStore:
    """The store as another process may see it, and the reading half of the server's own."""

    def __init__(self, folder: Path) -> None:
        """Raises ``StorageError`` where there is no store, ``StoreCorrupt``, ``StoreTooNew``."""
        self.folder = Path(folder)
        self._idle: deque[sqlite3.Connection] = deque()
        self._damaged: dict[int, str] = {}
        open_database(self.folder, create=False)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the store until the block ends; keep it short.

        A long one keeps the log from being folded into the database.
        """
        with translated(self.folder / FILE_NAME):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect(self.folder, write=False)
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    def get(self, doc_id: str) -> Document | None:
        """One document; None where there is none, or where its row is damaged."""
        return self.get_many([doc_id]).get(doc_id)

    def get_many(self, ids: Sequence[str]) -> dict[str, Document]:
        """Those of ``ids`` that are there, by id."""
        rows: Rows = []
        try:
            with self.read() as connection:
                for doc_id in ids:
                    rows += connection.execute(
                        "SELECT sequence, body, checksum FROM documents WHERE id = ?", (doc_id,)
                    ).fetchall()
        except StoreCorrupt:
            with self.read() as connection:
                expected = connection.execute(
                    "SELECT sequence, id FROM documents INDEXED BY sqlite_autoindex_documents_1 "
                    "WHERE id IN (SELECT value FROM json_each(?))",
                    (orjson.dumps(list(ids)).decode(),),
                ).fetchall()
            rows = self._one_by_one(expected)
        return {document.id: document for document in self._decode(rows)}

    def list(
        self, *, cursor: str | None = None, limit: int = 100, where: Filter | None = None
    ) -> tuple[Documents, str | None]:
        """A page of documents by id, and the cursor of the next page (None: this is the last).

        A document that is there all the while is listed once, whatever is written meanwhile.

        Raises:
            InvalidCursor: the cursor is none that an earlier page answered.
        """
        after = "" if cursor is None else _decode_cursor(cursor)
        found: Documents = []
        size = limit + 1 if not where else max(_PAGE, limit + 1)
        while len(found) <= limit:
            page, last = self._page_by_id(after, size)
            found.extend(d for d in page if where is None or where.matches(d))
            if last is None:
                break
            after = last
        if len(found) <= limit:
            return found, None
        return found[:limit], _encode_cursor(found[limit - 1].id)

    def count(self) -> int:
        """The number of documents."""
        with self.read() as connection:
            return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    @property
    def sequence(self) -> int:
        """The number of the last committed write; 0 for a new store."""
        with self.read() as connection:
            return current_sequence(connection)

    def changes(self, after: int, *, until: int | None = None) -> Changes:
        """What was written or deleted after a sequence, in that order, up to now (or ``until``).

        Only the last state of each id: what was written twice is told once.
        """
        end = self.sequence if until is None else until
        written: Changes = (d for page in self._pages(after, end, _PAGE) for d in page)
        deleted: Changes = self._tombstones(after, end)
        yield from merge(written, deleted, key=_sequence)

    def scan(self, *, batch: int = _PAGE, after: int = 0, until: int | None = None) -> Batches:
        """All documents in the order of their writes, up to now (or ``until``), in batches.

        A document updated meanwhile has moved past the end; ``changes(until)`` tells it.
        """
        end = self.sequence if until is None else until
        for documents in self._pages(after, end, batch):
            if documents:
                yield documents

    def vectors_after(self, sequence: int, encoder_sha: str) -> Iterator[StoredVectors]:
        """The vectors of documents written after a sequence, by one encoder, in order."""
        while True:
            with self.read() as connection:
                last = connection.execute(
                    "SELECT max(sequence) FROM (SELECT DISTINCT sequence FROM vectors "
                    "WHERE sequence > ? ORDER BY sequence LIMIT ?)",
                    (sequence, _PAGE),
                ).fetchone()[0]
                if last is None:
                    return
                rows = connection.execute(
                    "SELECT doc_id, sequence, passage, vector, checksum FROM vectors "
                    "WHERE sequence > ? AND sequence <= ? AND encoder_sha = ? "
                    "ORDER BY sequence, passage",
                    (sequence, last, encoder_sha),
                ).fetchall()
            yield from group(rows)
            sequence = last

    def meta_get(self, key: str) -> str | None:
        """A value that :meth:`DocumentStore.meta_set` kept."""
        with self.read() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def damaged(self) -> Names:
        """The ids of rows found damaged so far and still there; writing one anew heals it."""
        if not self._damaged:
            return []
        with self.read() as connection:
            rows = connection.execute(
                "SELECT sequence FROM documents INDEXED BY sqlite_autoindex_documents_1 "
                "WHERE sequence IN (SELECT value FROM json_each(?))",
                (orjson.dumps(list(self._damaged)).decode(),),
            ).fetchall()
        here = {row[0] for row in rows}
        for sequence in self._damaged.keys() - here:
            self._damaged.pop(sequence, None)
        return sorted(self._damaged.values())

    def verify(self) -> Names:
        """Reads every row and lets SQLite check the file: what is wrong, in words."""
        problems: Names = []
        try:
            for _ in self.scan():
                pass
            problems += [f"document {doc_id}: damaged row" for doc_id in self.damaged()]
            with self.read() as connection:
                rows = connection.execute("PRAGMA integrity_check(20)").fetchall()
            problems += [str(row[0]) for row in rows if row[0] != "ok"]
        except StoreCorrupt as error:
            problems.append(str(error))
        return problems

    def close(self) -> None:
        """Closes the connections that no one is reading with."""
        while self._idle:
            self._idle.pop().close()

    def _pages(self, after: int, end: int, size: int) -> Batches:
        while after < end:
            try:
                with self.read() as connection:
                    rows = connection.execute(
                        "SELECT sequence, body, checksum FROM documents "
                        "WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
                        (after, end, size),
                    ).fetchall()
                after = rows[-1][0] if len(rows) == size else end
            except StoreCorrupt:
                rows, after = self._salvage(after, end, size)
            yield self._decode(rows)

    def _salvage(self, after: int, end: int, size: int) -> tuple[Rows, int]:
        """A page of rows one by one, where a damaged part of the file hides some of them.

        The index of ids holds the sequences too, so it tells which rows there must be without a
        look at the pages of the rows; returns the rows and how far this page went.
        """
        with self.read() as connection:
            expected = connection.execute(
                "SELECT sequence, id FROM documents INDEXED BY sqlite_autoindex_documents_1 "
                "WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
                (after, end, size),
            ).fetchall()
        return self._one_by_one(expected), expected[-1][0] if len(expected) == size else end

    def _page_by_id(self, after: str, size: int) -> tuple[Documents, str | None]:
        """Documents in the order of their ids, and the last id looked at if there are more."""
        with self.read() as connection:
            expected = connection.execute(
                "SELECT sequence, id FROM documents INDEXED BY sqlite_autoindex_documents_1 "
                "WHERE id > ? ORDER BY id LIMIT ?",
                (after, size),
            ).fetchall()
        documents = self.get_many([doc_id for _, doc_id in expected])
        return list(documents.values()), expected[-1][1] if len(expected) == size else None

    def _one_by_one(self, expected: Sequence[tuple[int, str]]) -> Rows:
        """Rows (of sequences and ids) each in a read of its own; those unreadable are named."""
        rows: Rows = []
        for sequence, doc_id in expected:
            try:
                with self.read() as connection:
                    rows += connection.execute(
                        "SELECT sequence, body, checksum FROM documents WHERE sequence = ?",
                        (sequence,),
                    ).fetchall()
            except StoreCorrupt:
                self._name_damaged(sequence, doc_id)
        return rows

    def _tombstones(self, after: int, end: int) -> Iterator[Tombstone]:
        while after < end:
            with self.read() as connection:
                rows = connection.execute(
                    "SELECT id, sequence FROM tombstones "
                    "WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
                    (after, end, _PAGE),
                ).fetchall()
            yield from (Tombstone(*row) for row in rows)
            after = rows[-1][1] if len(rows) == _PAGE else end

    def _decode(self, rows: Rows) -> Documents:
        documents: Documents = []
        for sequence, body, check in rows:
            document = decode(sequence, body, check)
            if document is None:
                self._note_damage(sequence)
            else:
                documents.append(document)
        return documents

    def _note_damage(self, sequence: int) -> None:
        if sequence in self._damaged:
            return
        with self.read() as connection:
            row = connection.execute(
                "SELECT CAST(id AS BLOB) FROM documents WHERE sequence = ?", (sequence,)
            ).fetchone()
        if row is not None:
            self._name_damaged(sequence, bytes(row[0]).decode("utf-8", "replace"))

    def _name_damaged(self, sequence: int, doc_id: str) -> None:
        if sequence not in self._damaged and len(self._damaged) < _MAX_NAMED:
            self._damaged[sequence] = doc_id
            logger.error("document %r (write %d) is damaged and left out", doc_id, sequence)


def _sequence(change: Document | Tombstone) -> int:
    return change.sequence


def _encode_cursor(doc_id: str) -> str:
    return base64.urlsafe_b64encode(doc_id.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor("not a cursor of this listing") from error
