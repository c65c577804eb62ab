"""The one writing thread: writes that wait together are committed together.

Each write is a function that runs in a savepoint of its own, so one that fails undoes nothing
else. All that wait share one transaction and one sync of the disk; a future is resolved when that
sync is done, and not before. When the disk is full or fails, every write of the group fails; the
thread then opens the file anew and goes on.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from index_data.storage.database import (
    FILE_NAME,
    StorageError,
    StoreClosed,
    connect,
    translate,
    translated,
)
from index_data.storage.rows import current_sequence

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], Any]

logger = logging.getLogger(__name__)

# What waits longest in a group waits for all of it: a bound on writes, and on time.
_MAX_GROUP = 512
_MAX_GROUP_S = 0.1


@dataclass(slots=True)
class _Entry:
    write: Write
    future: Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the only connection that writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._connection: sqlite3.Connection | None = connect(folder, write=True)
        # The sequence of the last commit; readers of it never see one that is not durable.
        self.sequence = current_sequence(self._connection)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Queues a write; the future's result comes after the commit that holds it."""
        future: Future[T] = Future()
        with self._gate:
            if self._closed:
                raise StoreClosed("the store is closed")
            self._queue.put(_Entry(write, future))
        return future

    def close(self) -> None:
        """Writes what waits, then ends."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        ended = False
        while not ended:
            entry = self._queue.get()
            if entry is None:
                return
            ended = self._commit_group(entry)

    def _commit_group(self, first: _Entry) -> bool:
        """Writes one group; returns whether the queue has ended."""
        group: list[_Entry] = []
        ended = False
        try:
            with translated(self._folder / FILE_NAME):
                if self._connection is None:
                    self._connection = connect(self._folder, write=True)
                ended = self._fill(self._connection, first, group)
                sequence = current_sequence(self._connection)
                self._connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - handed to all who wait; the thread lives on
            logger.error("a group of %d writes was not committed: %s", len(group), error)
            self._abandon()
            for entry in group or [first]:
                if not entry.future.cancelled():
                    entry.future.set_exception(entry.error or error)
            return ended
        self.sequence = sequence
        for entry in group:
            if entry.error is not None:
                entry.future.set_exception(entry.error)
            else:
                entry.future.set_result(entry.result)
        return ended

    def _fill(self, connection: sqlite3.Connection, first: _Entry, group: list[_Entry]) -> bool:
        """Runs the first write and those that wait behind it, each in its savepoint."""
        entry: _Entry | None = first
        deadline = time.monotonic() + _MAX_GROUP_S
        connection.execute("BEGIN IMMEDIATE")
        while entry is not None:
            # From here on a future cannot be cancelled: its write may already be on the disk.
            if entry.future.set_running_or_notify_cancel():
                group.append(entry)
                self._run_one(connection, entry)
            if len(group) >= _MAX_GROUP or time.monotonic() > deadline:
                return False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return False
        return True

    def _run_one(self, connection: sqlite3.Connection, entry: _Entry) -> None:
        connection.execute("SAVEPOINT one")
        try:
            entry.result = entry.write(connection)
        except BaseException as error:
            if not connection.in_transaction:
                raise  # SQLite rolled the whole transaction back: it concerns all of the group
            connection.execute("ROLLBACK TO one")
            known = None
            if isinstance(error, sqlite3.DatabaseError):
                known = translate(error, self._folder / FILE_NAME)
            if isinstance(known, StorageError):
                raise  # the disk: what the others wrote would not fare better
            entry.error = known or error
        connection.execute("RELEASE one")

    def _abandon(self) -> None:
        """Drop the connection: after an error of the disk its state is unknown."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.error("closing the store after an error failed too: %s", error)
