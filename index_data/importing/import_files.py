"""Which files can be imported, and their bytes."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import BinaryIO

_JSON_SUFFIXES = (".jsonl", ".ndjson")
_CSV_SUFFIXES = (".csv", ".tsv")
_TEXT_SUFFIXES = (".txt", ".md", ".markdown")
_COMPRESSED = (".gz", ".xz")


class ImportRefused(ValueError):
    """A whole file that cannot be imported: its kind, its columns, its name."""


def find_files(paths: list[Path]) -> list[Path]:
    """The files to read, folders searched through, hidden ones left out.

    Raises:
        ImportRefused: a path that is not there, or a file of a kind that is not known.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inner = (p for p in sorted(path.rglob("*")) if not _hidden(p.relative_to(path)))
            found += [p for p in inner if p.is_file() and file_kind(p)]
        elif not path.exists():
            raise ImportRefused(f"{path}: no such file or folder")
        elif not file_kind(path):
            raise ImportRefused(
                f"{path}: not a kind that can be imported ({', '.join(_known_suffixes())})"
            )
        else:
            found.append(path)
    return found


def total_bytes(files: list[Path]) -> int:
    """The bytes that reading the files will report as progress."""
    return sum(path.stat().st_size for path in files)


def decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    """The bytes of a file that is open as ``raw``, unpacked where its name says so."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if suffix == ".xz":
        return lzma.LZMAFile(raw)  # type: ignore[return-value]
    return raw


def file_kind(path: Path) -> str:
    """``json``, ``csv`` or ``text`` by the name; empty where it is none of them."""
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _COMPRESSED
    suffix = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    if suffix[0] in _JSON_SUFFIXES:
        return "json"
    if suffix[0] in _CSV_SUFFIXES:
        return "csv"
    return "text" if suffix[0] in _TEXT_SUFFIXES and not packed else ""


def _known_suffixes() -> tuple[str, ...]:
    return _JSON_SUFFIXES + _CSV_SUFFIXES + _TEXT_SUFFIXES


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
