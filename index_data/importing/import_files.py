"""Which files can be imported, and their bytes."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
}


class ImportRefused(ValueError):
    """A whole file that cannot be imported: its kind, its columns, its name."""


def find_files(paths: list[Path]) -> list[Path]:
    """The files to read: those named, and those of a known kind in folders, without hidden ones.

    Raises:
        ImportRefused: a path that is not there, or a named file of an unknown kind.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inner = (p for p in sorted(path.rglob("*")) if not _hidden(p.relative_to(path)))
            files += [p for p in inner if p.is_file() and file_kind(p)]
        elif not path.exists():
            raise ImportRefused(f"{path}: no such file or folder")
        elif not file_kind(path):
            raise ImportRefused(f"{path}: not a kind that can be imported ({', '.join(_KINDS)})")
        else:
            files.append(path)
    return files


def total_bytes(files: list[Path]) -> int:
    """The size on the disk, as :func:`importers.read_file` reports its progress."""
    return sum(path.stat().st_size for path in files)


def decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    """The bytes of a file that is open as ``raw``, unpacked if its name ends in .gz or .xz."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if suffix == ".xz":
        return lzma.LZMAFile(raw)  # type: ignore[return-value]
    return raw


def file_kind(path: Path) -> str:
    """``json``, ``csv`` or ``text`` by the name, or the empty string; text is never packed."""
    *before, last = "", *(suffix.lower() for suffix in path.suffixes)
    if last not in (".gz", ".xz"):
        return _KINDS.get(last, "")
    kind = _KINDS.get(before[-1], "")
    return "" if kind == "text" else kind


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
