"""What is still to be done after an erasure: generations from before it are to go.

A published generation is a folder that never changes, so one that may hold what was erased stays
until another that reaches the erasure serves in its place.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from index_data.generations.index import Index
from index_data.storage.store import DocumentStore

logger = logging.getLogger(__name__)

ERASED: Final = "erased:sequence"  # the last erasure: a generation must reach it


def note_erasure(connection: sqlite3.Connection, sequence: int) -> None:
    """Write down, in the transaction of the erasure, which write it was."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (ERASED, str(sequence)))


def outdated_generations(store: DocumentStore, index: Index) -> list[int]:
    """The generations that are kept and do not reach the last erasure."""
    sequence = store.meta_get(ERASED)
    if sequence is None:
        return []
    generations = index.generations()
    return [g.number for g in generations if g.sequence is None or g.sequence < int(sequence)]


def remove_outdated(store: DocumentStore, index: Index) -> None:
    """Remove the generations from before the last erasure, all but one that serves."""
    sequence = store.meta_get(ERASED)
    if sequence is not None:
        removed = index.forget_before(int(sequence))
        if removed:
            logger.info("erasure: generations %s are removed", removed)
