"""Training data that was uploaded: a folder for each set under the store's.

    rows.jsonl     the rows in the form of their task (`app.records.dataset_rows`)
    dataset.json   kind, counts, and the SHA-256 of the rows

A set is written aside while it arrives, synced and renamed: it is there whole or not at all. Its id
is made from its content, so the same again is the same set.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from app.problems import Problem
from app.records.dataset_rows import SHAPES, kind_of, rows_of
from index_data.documents import InvalidDocument
from index_data.storage.database import sync_folder
from index_data.storage.store import StorageError

FOLDER: Final = "datasets"  # under the store's folder
ROWS: Final = "rows.jsonl"
ABOUT: Final = "dataset.json"
NAMED: Final = 1_000  # rejections listed in an answer; all are counted
LABELS: Final = 1_000  # labels or types counted; others are counted together
OTHERS: Final = "(others)"
ID: Final = re.compile(r"ds_[0-9a-f]{24}")


class DatasetBroken(RuntimeError):
    """A stored set that is not what was written."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is known of a stored set. ``labels``: how many rows or entities carry each."""

    id: str
    name: str
    kind: str
    task: str
    rows: int
    labels: dict[str, int]
    created: float
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The shape of the API."""
        return asdict(self)


class Datasets:
    """The sets of a store."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        for left in self.folder.glob(".*.writing"):  # of an upload that a crash cut off
            shutil.rmtree(left, ignore_errors=True)

    def all(self) -> list[Dataset]:
        """Every set that reads, the newest first."""
        sets = []
        for path in self.folder.glob(f"ds_*/{ABOUT}"):
            try:
                sets.append(_about(path.parent))
            except DatasetBroken:
                continue
        return sorted(sets, key=lambda d: (-d.created, d.id))

    def find(self, name: str) -> Dataset:
        """One set. Raises ``not-found``."""
        folder = self.folder / name
        if not ID.fullmatch(name) or not folder.is_dir():
            raise Problem("not-found", "There is no dataset with this id.")
        return _about(folder)

    def delete(self, name: str) -> None:
        """Take a set away. Raises ``not-found``."""
        self.find(name)
        aside = self.folder / f".{name}.{time.monotonic_ns()}.writing"
        (self.folder / name).rename(aside)  # at once; what follows may take its time
        sync_folder(self.folder)
        shutil.rmtree(aside, ignore_errors=True)

    def upload(self, *, kind: str | None, name: str) -> Upload:
        """Begin a set. ``kind`` ``None``: that of its first row."""
        return Upload(self.folder, kind=kind, name=name)


class Upload:
    """A set while it arrives. Not for several threads at once."""

    def __init__(self, folder: Path, *, kind: str | None, name: str) -> None:
        self.kind = kind
        self.rows = 0
        self.rejections = 0
        self.rejected: list[dict[str, Any]] = []
        self._name = name
        self._labels: Counter[str] = Counter()
        self._digest = hashlib.sha256()
        self._size = 0
        self._parent = folder
        self._aside = (
            folder / f".{os.getpid()}.{threading.get_ident()}.{time.monotonic_ns()}.writing"
        )
        with storing():
            self._aside.mkdir(parents=True)
            self._file = (self._aside / ROWS).open("wb")

    def add(self, number: int, line: bytes | None) -> None:
        """Take one line; what is wrong with it is noted and loses nothing else."""
        if line is None:
            self.reject(number, "", "the line is too long")
            return
        if not line.strip():
            return
        try:
            raw = orjson.loads(line)
        except orjson.JSONDecodeError:
            self.reject(number, "", "not valid JSON")
        else:
            self.add_value(number, raw)

    def add_value(self, number: int, raw: object) -> None:
        """Take what one line holds."""
        try:
            kind = self.kind or kind_of(raw)
        except InvalidDocument as error:
            self.reject(number, error.pointer, error.detail)
            return
        for pointer, row in rows_of(raw, kind):
            if isinstance(row, InvalidDocument):
                self.reject(number, row.pointer or pointer, row.detail)
                continue
            self.kind = kind
            body = line_of(row)
            with storing():
                self._file.write(body)
            self._digest.update(body)
            self._size += len(body)
            self.rows += 1
            for label in labels_of(row):
                known = label in self._labels or len(self._labels) < LABELS
                self._labels[label if known else OTHERS] += 1

    def reject(self, number: int, pointer: str, detail: str) -> None:
        """Note a row that was not taken."""
        self.rejections += 1
        if len(self.rejected) < NAMED:
            self.rejected.append({"line": number, "pointer": f"#{pointer}", "detail": detail})

    def finish(self) -> Dataset:
        """Make it durable and known under its id. At least one row must have been taken."""
        kind = self.kind or ""
        sha256 = self._digest.hexdigest()
        made = Dataset(
            id=id_of(kind, sha256),
            name=self._name,
            kind=kind,
            task=SHAPES[kind].family,
            rows=self.rows,
            labels=dict(self._labels.most_common()),
            created=time.time(),
            bytes=self._size,
            sha256=sha256,
        )
        with storing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            with (self._aside / ABOUT).open("wb") as file:
                file.write(orjson.dumps(made.to_json(), option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._aside)
            place = self._parent / made.id
            try:
                self._aside.rename(place)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                self.drop()  # the same set is there already
                return _about(place)
            sync_folder(self._parent)
        return made

    def drop(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        shutil.rmtree(self._aside, ignore_errors=True)


@contextmanager
def storing() -> Iterator[None]:
    """Errors of the disk as the server tells them."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(error.errno or errno.EIO, str(error.strerror)) from error


def id_of(kind: str, sha256: str) -> str:
    """The id of a set with these rows."""
    return f"ds_{hashlib.sha256(f'{kind} {sha256}'.encode()).hexdigest()[:24]}"


def line_of(row: dict[str, Any]) -> bytes:
    """A row as it is stored."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def labels_of(row: dict[str, Any]) -> Iterator[str]:
    """What a row is counted under: its labels, the types of its entities."""
    for value in row.get("labels", {}).values():
        yield from [value] if isinstance(value, str) else value
    for entity in row.get("entities", ()):
        yield entity["type"]


def rows_file(folder: Path) -> tuple[Dataset, Path]:
    """A set and the file of its rows. Raises :class:`DatasetBroken` if it is not what was written.

    The file is read once, a block at a time, whatever its size.
    """
    about, path = _about(folder), folder / ROWS
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetBroken(f"dataset {about.id}: {error.strerror}") from error
    if sha256 != about.sha256:
        raise DatasetBroken(f"dataset {about.id}: sha256 {sha256[:12]}, was {about.sha256[:12]}")
    return about, path


def load_rows(folder: Path) -> list[dict[str, Any]]:
    """A set's rows. Raises :class:`DatasetBroken` when it is not what was written."""
    _, path = rows_file(folder)
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _about(folder: Path) -> Dataset:
    try:
        return Dataset(**orjson.loads((folder / ABOUT).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetBroken(f"dataset {folder.name} does not read: {error}") from error
