"""The document store: documents, and all else that must not be lost.

SQLite in WAL mode with a full sync at each commit, written by one thread of one process
(``writer``), read by any (``reader``). Every write of a document has a sequence; what
is built from the store (the index) carries the sequence it reaches and asks for the changes since.

Other modules keep tables of their own here: they create them and write them with
:meth:`DocumentStore.write` and read with :meth:`DocumentStore.read`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from index_data.documents import Document
from index_data.storage.database import (
    FILE_NAME,
    PreconditionFailed,
    StorageError,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreTooNew,
    connect,
    open_database,
    sync_folder,
    translated,
)
from index_data.storage.lock import Holder, StoreLock, StoreLocked, holder
from index_data.storage.reader import InvalidCursor, ReadOnlyStore
from index_data.storage.rows import (
    DeleteResult,
    StoredVectors,
    Tombstone,
    WriteResult,
    delete_documents,
    insert_vectors,
    upsert_documents,
)
from index_data.storage.writer import Writer

__all__ = [
    "DeleteResult",
    "DocumentStore",
    "Holder",
    "InvalidCursor",
    "PreconditionFailed",
    "ReadOnlyStore",
    "StorageError",
    "StoreClosed",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "StoreTooNew",
    "StoredVectors",
    "Tombstone",
    "WriteResult",
    "delete_documents",
    "holder",
    "upsert_documents",
]

T = TypeVar("T")


class DocumentStore(ReadOnlyStore):
    """The store of the process that owns it."""

    def __init__(self, folder: Path, *, address: str | None = None) -> None:
        """Locks and opens the store of ``folder``, which is made if it is not there.

        Raises:
            StoreLocked: another process has it (within a second).
            StoreCorrupt, StoreTooNew, StorageError: it cannot be opened.
        """
        folder = Path(folder)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
        self._lock = StoreLock(folder, address)
        try:
            # A store is new when there is no file; the sample is for new ones only.
            self.created = not (folder / FILE_NAME).exists()
            open_database(folder, create=True)
            super().__init__(folder)
            with translated(folder / FILE_NAME):
                self._writer = Writer(folder)
        except BaseException:
            self._lock.release()
            raise
        self._closed = False

    def set_address(self, address: str | None) -> None:
        """Records for commands on this machine where the server listens (:func:`holder`)."""
        self._lock.set_address(address)

    @property
    def sequence(self) -> int:
        """The number of the last committed write; 0 for a new store."""
        return self._writer.sequence

    def write(self, fn: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Runs ``fn`` on the writing thread, in a savepoint; its result comes when it is durable.

        ``fn`` must not begin, commit or roll back (nor call ``executescript``, which commits), and
        must not wait for another write. Whatever it raises undoes what it wrote and is raised by
        the future; ``StorageError`` says that the disk refused. Raises ``StoreClosed``.
        """
        return self._writer.submit(fn)

    def upsert(
        self, documents: Sequence[Document], *, if_match: str | None = None
    ) -> Future[WriteResult]:
        """Writes documents, all or none; with ``if_match`` only over the version it names."""
        written = tuple(documents)
        return self.write(lambda c: upsert_documents(c, written, if_match=if_match))

    def delete(self, ids: Sequence[str], *, if_match: str | None = None) -> Future[DeleteResult]:
        """Deletes those of ``ids`` that are there."""
        deleted = tuple(ids)
        return self.write(lambda c: delete_documents(c, deleted, if_match=if_match))

    def put_vectors(self, items: Sequence[StoredVectors], encoder_sha: str) -> Future[int]:
        """Keeps the vectors of documents not written since; the number of those documents."""
        return self.write(lambda c: insert_vectors(c, items, encoder_sha))

    def scrub(self) -> None:
        """Folds the log into the database and empties it, so that it keeps no old versions.

        Waits for readers some seconds at most; what they still read stays until the next time.
        """
        with (
            translated(self.folder / FILE_NAME),
            closing(connect(self.folder, write=True)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def meta_set(self, key: str, value: str) -> None:
        """Keeps a value under a key; durable when this returns."""
        self.write(
            lambda c: c.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        ).result()

    def close(self) -> None:
        """Commits what waits, closes the file and gives the lock back."""
        if self._closed:
            return
        self._closed = True
        super().close()  # the last to close takes the log into the file, which a reader cannot
        self._writer.close()
        self._lock.release()
