"""Folders of files that are there whole or not at all, and are verified before they are parsed.

manifest.json    what the folder is, and the sha256 of every other file
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

MANIFEST = "manifest.json"


class CheckpointRefused(RuntimeError):
    """A checkpoint that does not load; the message holds the two sides that do not fit."""


@contextlib.contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder to write files into; afterwards it is synced and renamed to `out`.

    Raises:
        CheckpointRefused: `out` is there already.
        OSError: The disk; nothing is left at `out`.
    """
    if out.exists():
        raise CheckpointRefused(f"{out.name} is there already")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        for folder in [path for path in aside.rglob("*") if path.is_dir()] + [aside]:
            _sync(folder)
        aside.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_manifest(aside: Path, version: str, about: Mapping[str, object]) -> None:
    """The manifest over all files that lie in a folder so far; `about`: what else it holds."""
    files = {
        str(path.relative_to(aside)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(aside.rglob("*"))
        if path.is_file()
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {**about, "version": version, "created": created, "files": files}
    write_file(aside / MANIFEST, to_bytes(whole))


def read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """A manifest, not checked against anything, and the sha256 of its bytes."""
    raw = (folder / MANIFEST).read_bytes()
    return json.loads(raw), hashlib.sha256(raw).hexdigest()


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Hold a folder against the sha256s of its manifest.

    Raises:
        CheckpointRefused: Something is missing, added or changed.
    """
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    if there != set(files):
        odd = sorted(there ^ set(files))[0]
        raise CheckpointRefused(
            f"{folder.name}: {len(files)} files in the manifest, {len(there)} there ({odd})"
        )
    for name, expected in files.items():
        actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if actual != expected:
            raise CheckpointRefused(
                f"{folder.name}/{name}: sha256 {actual[:12]}, the manifest says {expected[:12]}"
            )


@contextlib.contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Whatever is wrong with the files of a folder, as `CheckpointRefused`."""
    try:
        yield
    except CheckpointRefused:
        raise
    except (
        OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError
    ) as error:  # fmt: skip
        kind = type(error).__name__
        raise CheckpointRefused(f"{folder.name} does not read: {kind}: {error}") from error


def to_bytes(value: object) -> bytes:
    """JSON with sorted keys."""
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def write_file(path: Path, data: bytes) -> None:
    """Write and sync."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
