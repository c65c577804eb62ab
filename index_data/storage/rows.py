"""Rows of the store: how a document is written, deleted, read back and checked.

``upsert_documents`` and ``delete_documents`` run inside a transaction of the writing thread, so
that another module can write documents together with rows of its own (``DocumentStore.write``).
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from index_data.documents import Document, from_canonical
from index_data.storage.database import PreconditionFailed


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A document that was deleted, by the write ``sequence``."""

    id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What an upsert did. ``documents`` are as stored, each with its sequence."""

    sequence: int
    created: int
    updated: int
    ids: list[str]
    documents: list[Document]


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What a deletion did; ``ids`` are of the documents that were there."""

    sequence: int
    deleted: int
    ids: list[str]


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors of all passages of one document, [passages, dim], as float16.

    They belong to one write: an update removes them, and those that arrive after it are dropped.
    They can be made again, so damaged ones are left out.
    """

    doc_id: str
    sequence: int
    vectors: NDArray[np.float16]


def checksum(sequence: int, body: bytes) -> bytes:
    """64 bits of BLAKE2b over a row's sequence and body."""
    return hashlib.blake2b(body, digest_size=8, salt=sequence.to_bytes(16, "little")).digest()


def decode(sequence: int, body: bytes, expected: bytes) -> Document | None:
    """The document of a row, or None where the row is damaged."""
    if not isinstance(body, bytes) or checksum(sequence, body) != expected:
        return None
    try:
        return from_canonical(body, sequence)
    except ValueError:
        return None


def upsert_documents(
    connection: sqlite3.Connection, documents: Sequence[Document], *, if_match: str | None = None
) -> WriteResult:
    """Writes documents in their order; the last of one id stays.

    Raises:
        PreconditionFailed: ``if_match`` (an ETag, or ``*`` for "exists") does not hold.
    """
    _check(connection, [document.id for document in documents], if_match)
    sequence = _next(connection, len(documents)) - len(documents)
    created = 0
    stored: list[Document] = []
    for document in documents:
        sequence += 1
        old = connection.execute("DELETE FROM documents WHERE id = ?", (document.id,))
        if old.rowcount:
            connection.execute("DELETE FROM vectors WHERE doc_id = ?", (document.id,))
        else:
            created += 1
            connection.execute("DELETE FROM tombstones WHERE id = ?", (document.id,))
        body = document.canonical()
        connection.execute(
            "INSERT INTO documents (sequence, id, body, checksum) VALUES (?, ?, ?, ?)",
            (sequence, document.id, body, checksum(sequence, body)),
        )
        stored.append(replace(document, sequence=sequence))
    return WriteResult(sequence, created, len(stored) - created, [d.id for d in stored], stored)


def delete_documents(
    connection: sqlite3.Connection, ids: Sequence[str], *, if_match: str | None = None
) -> DeleteResult:
    """Deletes those of ``ids`` that are there, with a tombstone for each; raises as an upsert."""
    _check(connection, ids, if_match)
    deleted: list[str] = []
    for doc_id in ids:
        if not connection.execute("DELETE FROM documents WHERE id = ?", (doc_id,)).rowcount:
            continue
        connection.execute("DELETE FROM vectors WHERE doc_id = ?", (doc_id,))
        connection.execute("INSERT INTO tombstones VALUES (?, ?)", (_next(connection, 1), doc_id))
        deleted.append(doc_id)
    return DeleteResult(current_sequence(connection), len(deleted), deleted)


def insert_vectors(
    connection: sqlite3.Connection, items: Sequence[StoredVectors], encoder_sha: str
) -> int:
    """Stores the vectors of documents that are still at their sequence; returns how many are."""
    stored = 0
    for item in items:
        row = connection.execute(
            "SELECT 1 FROM documents WHERE id = ? AND sequence = ?", (item.doc_id, item.sequence)
        ).fetchone()
        if row is None:
            continue
        stored += 1
        blobs = [vector.astype(np.float16).tobytes() for vector in item.vectors]
        connection.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?, ?)",
            [
                (item.doc_id, passage, encoder_sha, item.sequence, blob, zlib.crc32(blob))
                for passage, blob in enumerate(blobs)
            ],
        )
    return stored


def group(rows: Sequence[tuple[str, int, int, bytes, int]]) -> list[StoredVectors]:
    """Rows (id, sequence, passage, vector, checksum), passages in order, by document.

    A document of which a passage is damaged or missing is left out whole.
    """
    grouped: dict[str, tuple[int, list[bytes]]] = {}
    broken: set[str] = set()
    for doc_id, sequence, passage, blob, crc in rows:
        _, blobs = grouped.setdefault(doc_id, (sequence, []))
        if passage != len(blobs) or zlib.crc32(blob) != crc:
            broken.add(doc_id)
        blobs.append(blob)
    return [
        StoredVectors(
            doc_id, sequence, np.frombuffer(b"".join(blobs), np.float16).reshape(len(blobs), -1)
        )
        for doc_id, (sequence, blobs) in grouped.items()
        if doc_id not in broken and len({len(blob) for blob in blobs}) == 1
    ]


def current_sequence(connection: sqlite3.Connection) -> int:
    """The number of the last write that this connection sees."""
    return int(connection.execute("SELECT value FROM sequence").fetchone()[0])


def _next(connection: sqlite3.Connection, count: int) -> int:
    # In the database, so that a savepoint that is rolled back takes its numbers along.
    row = connection.execute(
        "UPDATE sequence SET value = value + ? RETURNING value", (count,)
    ).fetchone()
    return int(row[0])


def _check(connection: sqlite3.Connection, ids: Sequence[str], if_match: str | None) -> None:
    if if_match is None:
        return
    tags = {tag.strip() for tag in if_match.split(",")}
    for doc_id in ids:
        row = connection.execute(
            "SELECT sequence, body, checksum FROM documents WHERE id = ?", (doc_id,)
        ).fetchone()
        document = decode(*row) if row else None
        current = document.etag if document else None
        if current is None or ("*" not in tags and current not in tags):
            raise PreconditionFailed(doc_id, current)
