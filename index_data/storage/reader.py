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
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from index_data.documents import Document
from index_data.filters import Filter
from index_data.storage.database import FILE_NAME, StoreCorrupt, connect, open_database, translated
from index_data.storage.rows import StoredVectors, Tombstone, current_sequence, decode, group

logger = logging.getLogger(__name__)

# Written out because the method ``list`` hides the type of that name inside the class.
Documents = list[Document]
Batches = Iterator[list[Document]]
Names = list[str]
Changes = Iterator[Document | Tombstone]
Rows = list[tuple[Any, ...]]

_PAGE = 1_000
_MAX_NAMED = 1_000
_ROW = "SELECT sequence, body, checksum FROM documents WHERE "
# The index of ids holds the sequences too: it lists the rows without a look at their pages.
_LISTED = "SELECT sequence, id FROM documents INDEXED BY sqlite_autoindex_documents_1 WHERE "
_AMONG = "IN (SELECT value FROM json_each(?))"


class InvalidCursor(ValueError):
    """A cursor that no listing returned."""


class ReadOnlyStore:
    """The store for other processes (no lock, whole commits), and what the server's own reads."""

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
                    rows += connection.execute(_ROW + "id = ?", (doc_id,)).fetchall()
        except StoreCorrupt:
            listed = self._rows(_LISTED + "id " + _AMONG, orjson.dumps(list(ids)).decode())
            rows = self._one_by_one(listed)
        return {document.id: document for document in self._decode(rows)}

    def list(
        self, *, cursor: str | None = None, limit: int = 100, where: Filter | None = None
    ) -> tuple[Documents, str | None]:
        """A page of documents by id, and the cursor of the next page (None: this is the last).

        A document that stays in the store is listed once, whatever is written meanwhile.

        Raises:
            InvalidCursor: the cursor is not one that an earlier page returned.
        """
        after = "" if cursor is None else _decode_cursor(cursor)
        result: Documents = []
        size = limit + 1 if not where else max(_PAGE, limit + 1)
        while len(result) <= limit:
            page, last = self._page_by_id(after, size)
            result.extend(d for d in page if where is None or where.matches(d))
            if last is None:
                break
            after = last
        if len(result) <= limit:
            return result, None
        return result[:limit], _encode_cursor(result[limit - 1].id)

    def count(self) -> int:
        """The number of documents."""
        return int(self._rows("SELECT count(*) FROM documents")[0][0])

    @property
    def sequence(self) -> int:
        """The number of the last committed write; 0 for a new store."""
        with self.read() as connection:
            return current_sequence(connection)

    def changes(self, after: int, *, until: int | None = None) -> Changes:
        """What was written or deleted after a sequence, in that order, up to now (or ``until``).

        Only the last state of each id: what was written twice comes once.
        """
        end = self.sequence if until is None else until
        written: Changes = (d for page in self._pages(after, end) for d in page)
        deleted: Changes = self._tombstones(after, end)
        yield from merge(written, deleted, key=attrgetter("sequence"))

    def scan(self, *, until: int | None = None) -> Batches:
        """All documents in the order of their writes, up to now (or ``until``), in batches.

        A document updated meanwhile has moved past the end: it is in ``changes(until)``.
        """
        return filter(None, self._pages(0, self.sequence if until is None else until))

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
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0][0]) if rows else None

    def damaged(self) -> Names:
        """The ids of rows found damaged so far and still there; writing a document heals it."""
        if not self._damaged:
            return []
        noted = orjson.dumps(list(self._damaged)).decode()
        rows = self._rows(_LISTED + "sequence " + _AMONG, noted)
        here = {sequence for sequence, _ in rows}
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
            checked = self._rows("PRAGMA integrity_check(20)")
            problems += [str(row[0]) for row in checked if row[0] != "ok"]
        except StoreCorrupt as error:
            problems.append(str(error))
        return problems

    def close(self) -> None:
        """Closes the connections that nobody reads from."""
        while self._idle:
            self._idle.pop().close()

    def _rows(self, sql: str, *parameters: object) -> Rows:
        with self.read() as connection:
            return connection.execute(sql, parameters).fetchall()

    def _pages(self, after: int, end: int) -> Batches:
        """Documents in the order of their sequences, from behind one up to another.

        Where a damaged part of the file hides some rows of a page, the others are read one by one.
        """
        page = "sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?"
        while after < end:
            limits = after, end, _PAGE
            try:
                rows = self._rows(_ROW + page, *limits)
                last = rows[-1][0] if len(rows) == _PAGE else end
            except StoreCorrupt:
                listed = self._rows(_LISTED + page, *limits)
                rows = self._one_by_one(listed)
                last = listed[-1][0] if len(listed) == _PAGE else end
            yield self._decode(rows)
            after = last

    def _page_by_id(self, after: str, size: int) -> tuple[Documents, str | None]:
        """Documents in the order of their ids, and the last id looked at if there are more."""
        listed = self._rows(_LISTED + "id > ? ORDER BY id LIMIT ?", after, size)
        documents = self.get_many([doc_id for _, doc_id in listed])
        return list(documents.values()), listed[-1][1] if len(listed) == size else None

    def _one_by_one(self, listed: Rows) -> Rows:
        """Rows (of sequences and ids) each in a read of its own; those unreadable are noted."""
        rows: Rows = []
        for sequence, doc_id in listed:
            try:
                rows += self._rows(_ROW + "sequence = ?", sequence)
            except StoreCorrupt:
                self._note_damaged(sequence, doc_id)
        return rows

    def _tombstones(self, after: int, end: int) -> Iterator[Tombstone]:
        while after < end:
            rows = self._rows(
                "SELECT id, sequence FROM tombstones "
                "WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
                after,
                end,
                _PAGE,
            )
            yield from (Tombstone(*row) for row in rows)
            after = rows[-1][1] if len(rows) == _PAGE else end

    def _decode(self, rows: Rows) -> Documents:
        documents: Documents = []
        for sequence, body, check in rows:
            document = decode(sequence, body, check)
            if document is not None:
                documents.append(document)
            elif sequence not in self._damaged:
                for (name,) in self._rows(
                    "SELECT CAST(id AS BLOB) FROM documents WHERE sequence = ?", sequence
                ):
                    self._note_damaged(sequence, bytes(name).decode("utf-8", "replace"))
        return documents

    def _note_damaged(self, sequence: int, doc_id: str) -> None:
        if sequence not in self._damaged and len(self._damaged) < _MAX_NAMED:
            self._damaged[sequence] = doc_id
            logger.error("document %r (write %d) is damaged and left out", doc_id, sequence)


def _encode_cursor(doc_id: str) -> str:
    return base64.urlsafe_b64encode(doc_id.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor("not a cursor of this listing") from error
