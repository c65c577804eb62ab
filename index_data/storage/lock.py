"""One process per store: a lock that the system releases whatever becomes of its holder."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from index_data.storage.database import StoreError

FILE_NAME = "lock"
# A server that was just killed may need a moment to be gone.
_PATIENCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the store: its process, and its HTTP address once it serves."""

    pid: int | None
    address: str | None


class StoreLocked(StoreError):
    """Another process has the store; ``holder`` says which."""

    def __init__(self, folder: Path, holder: Holder) -> None:
        where = f" at {holder.address}" if holder.address else ""
        super().__init__(f"the store {folder} is in use by process {holder.pid or '?'}{where}")
        self.holder = holder


class StoreLock:
    """An exclusive lock on ``folder/lock``, which also names its holder."""

    def __init__(self, folder: Path, address: str | None) -> None:
        self._path = folder / FILE_NAME
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + _PATIENCE_S
        while not _try_lock(self._descriptor):
            if time.monotonic() >= deadline:
                os.close(self._descriptor)
                raise StoreLocked(folder, _read(self._path))
            time.sleep(0.02)
        self.set_address(address)

    def set_address(self, address: str | None) -> None:
        """Writes who holds the lock, for :func:`holder`."""
        content = json.dumps({"pid": os.getpid(), "address": address}).encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))

    def release(self) -> None:
        """Leaves the file in place: to remove it would let two processes hold two locks."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def holder(folder: Path) -> Holder | None:
    """Who holds the store of ``folder`` now; None if nobody does."""
    path = folder / FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(descriptor) else _read(path)
    finally:
        os.close(descriptor)  # which gives the lock back


def _try_lock(descriptor: int) -> bool:
    # flock belongs to the open file, so a second store within this process is refused as well.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> Holder:
    try:
        content = json.loads(path.read_bytes())
        return Holder(int(content["pid"]), content["address"])
    except (ValueError, KeyError, TypeError):
        return Holder(None, None)  # locked an instant ago, not written yet
