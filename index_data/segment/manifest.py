"""The manifest of a generation: every file in the folder, with its checksum.

It is written last and read first: nothing in a folder is opened before every file has been found
to be the one that was written, with no other file beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from index_data.storage.database import sync_folder, synced_file

FORMAT = 1
NAME = "manifest.json"
HASHING_THREADS = 2


class GenerationCorrupt(RuntimeError):
    """A generation that is not what its manifest says, or was written in another format."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`sequence` is the last write of the store that the generation holds."""

    number: int
    sequence: int
    analyzer: str
    passage_words: int
    documents: int
    passages: int
    average_length: float
    created: float
    encoder_sha: str | None = None
    dim: int | None = None
    format: int = FORMAT
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, checksums of all other files included, and sync it and the folder."""
    names = sorted(_names(folder))
    content = asdict(manifest) | {"files": dict(zip(names, _describe(folder, names), strict=True))}
    with synced_file(folder / NAME) as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sync_folder(folder)


def manifest_sha256(folder: Path) -> str:
    """The digest that the store keeps of a published generation."""
    return hashlib.sha256(_read(folder)).hexdigest()


def verify(folder: Path, *, sha256: str | None = None, files: bool = True) -> Manifest:
    """Check a folder against its manifest, and the manifest against `sha256` where it is known.

    Without `files` only the manifest is checked. Raises GenerationCorrupt, naming the first thing
    that does not fit.
    """
    raw = _read(folder)
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and digest != sha256:
        raise GenerationCorrupt(
            f"{folder.name}: the manifest's sha256 is {digest}, the store has {sha256}"
        )
    manifest = _parse(folder, raw)
    if not files:
        return manifest
    names = sorted(_names(folder))
    if names != sorted(manifest.files):
        odd = sorted(set(names) ^ set(manifest.files))
        raise GenerationCorrupt(f"{folder.name}: {odd[0]} is missing or is not in the manifest")
    for name, actual in zip(names, _describe(folder, names, manifest.files), strict=True):
        if actual != manifest.files[name]:
            raise GenerationCorrupt(
                f"{folder.name}: {name} is {actual}, the manifest has {manifest.files[name]}"
            )
    return manifest


def _read(folder: Path) -> bytes:
    try:
        return (folder / NAME).read_bytes()
    except OSError as error:
        raise GenerationCorrupt(f"{folder.name}: no manifest ({error.strerror})") from error


def _parse(folder: Path, raw: bytes) -> Manifest:
    try:
        content = orjson.loads(raw)
        if content["format"] != FORMAT:
            raise GenerationCorrupt(
                f"{folder.name}: format {content['format']}, this version reads {FORMAT}"
            )
        return Manifest(**content)
    except (ValueError, TypeError, KeyError) as error:
        raise GenerationCorrupt(f"{folder.name}: the manifest cannot be read: {error!r}") from error


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise GenerationCorrupt(f"{folder.name}: {path.name} is not a plain file")
        if path.is_file() and path != folder / NAME:
            yield path.relative_to(folder).as_posix()


def _describe(
    folder: Path, names: list[str], expected: dict[str, dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Size and sha256 of each file; one whose size is wrong already is not read."""

    def describe(name: str) -> dict[str, Any]:
        path = folder / name
        size = path.stat().st_size
        if expected is not None and size != expected[name].get("size"):
            return {"size": size}
        with path.open("rb") as file:
            return {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    # Hashing holds no interpreter lock; the largest files first, so that the threads end together.
    order = sorted(names, key=lambda name: -(folder / name).stat().st_size)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        described = dict(zip(order, pool.map(describe, order), strict=True))
    return [described[name] for name in names]
