"""The SQLite file of the store: its schema, how it is opened, what its errors mean.

StoreError
├── StoreLocked         another process has the store
├── StoreCorrupt        the file is damaged beyond single rows
├── StoreTooNew         written by a later version
├── StoreClosed         a write after close()
├── StorageError        the disk is full or fails (also an OSError); nothing was written
└── PreconditionFailed  the document is not the one that If-Match names
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

SCHEMA_VERSION = 1
FILE_NAME = "documents.sqlite3"
_BUSY_TIMEOUT_S = 10.0

# A row's place is its sequence: an update appends, and a scan follows the order of the writes.
# A checksum covers the row's sequence and body; the id column is only the way to it.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS sequence (only INTEGER PRIMARY KEY CHECK (only = 1), "
    "value INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS documents (sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, "
    "body BLOB NOT NULL, checksum BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tombstones (sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS vectors (doc_id TEXT NOT NULL, passage INTEGER NOT NULL, "
    "encoder_sha TEXT NOT NULL, sequence INTEGER NOT NULL, vector BLOB NOT NULL, "
    "checksum INTEGER NOT NULL, PRIMARY KEY (doc_id, encoder_sha, passage)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS vectors_by_sequence ON vectors (sequence)",
    "INSERT OR IGNORE INTO sequence VALUES (1, 0)",
)


class StoreError(RuntimeError):
    """Whatever goes wrong with the store."""


class StoreCorrupt(StoreError):
    """The database file is damaged beyond single rows; the message says what to do."""


class StoreTooNew(StoreError):
    """The store was written by a later version of Footnote."""


class StoreClosed(StoreError):
    """The store was closed before this write could be taken."""


class StorageError(StoreError, OSError):
    """The disk is full or failed: nothing of the write is stored, and the store goes on."""

    def __init__(self, number: int, message: str) -> None:
        OSError.__init__(self, number, message)

    @property
    def full(self) -> bool:
        """Whether the disk has no space left."""
        return self.errno == errno.ENOSPC


class PreconditionFailed(StoreError):
    """The stored document is not the one the caller last saw."""

    def __init__(self, doc_id: str, current: str | None) -> None:
        super().__init__("the document has changed" if current else "there is no such document")
        self.doc_id = doc_id
        self.current = current


def open_database(folder: Path, *, create: bool) -> None:
    """Makes the schema (or checks it) and syncs the folder; raises the errors of this module."""
    path = folder / FILE_NAME
    with translated(path), closing(connect(folder, write=create)) as connection:
        if create:
            _prepare(connection)
        _check_version(connection)
    if create:
        sync_folder(folder)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(
            "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),)
        )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_version(connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = int(row[0]) if row and row[0].isdigit() else 0
    if version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"the store has schema version {version}, this Footnote reads up to {SCHEMA_VERSION}: "
            "start the version that wrote it, or a later one"
        )
    if version < 1:
        raise StoreCorrupt("the store has no schema version: restore the folder from a copy")


def connect(folder: Path, *, write: bool) -> sqlite3.Connection:
    """A connection without implicit transactions, usable by one thread at a time."""
    path = (folder / FILE_NAME).resolve()
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'rwc' if write else 'ro'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT_S,
    )
    try:
        if write:
            connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a commit returns when the log is on the disk, not in the system's cache.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises SQLite's errors about the file as this module's; those about statements pass."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        known = translate(error, path)
        if known is None:
            raise
        raise known from error


def translate(error: sqlite3.DatabaseError, path: Path) -> StoreError | None:
    """The store's error for one of SQLite's about the file; None where it is about a statement."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreCorrupt(
            f"{path.name} is damaged ({error}): `footnote doctor` shows what can be saved"
        )
    if name.startswith("SQLITE_FULL"):
        return StorageError(errno.ENOSPC, "no space left for the document store")
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return StorageError(errno.EIO, f"the document store cannot be read or written ({name})")
    return None


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, not only what they name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
