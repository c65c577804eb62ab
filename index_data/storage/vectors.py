"""Vectors of documents that no generation holds yet, kept beside the documents.

A vector belongs to one write of one document: an update removes it, and one that arrives after
the update is dropped. They can be made again, so a damaged one is left out.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors of all passages of one document, [passages, dim], as float16."""

    doc_id: str
    sequence: int
    vectors: NDArray[np.float16]


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
