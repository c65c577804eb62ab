"""Reading documents from files: JSONL, CSV and TSV, text and Markdown, folders of them.

Everything streams, in memory bounded by the longest line that is taken. What cannot be read comes
with its line and its reason, and the rest is read on. Files may be compressed (``.gz``,
``.xz``); progress counts the bytes of the files as they lie on the disk.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from index_data.documents import MAX_TEXT_CHARS, Document, InvalidDocument, parse_document

Item = tuple[int, Document | InvalidDocument]
Progress = Callable[[int], None]

# A text of the greatest length in characters of four bytes, and as much for all else.
MAX_LINE_BYTES = 8 * MAX_TEXT_CHARS
_OWN_FIELDS = ("lang", "labels", "metadata")
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
            files += [
                inner
                for inner in sorted(path.rglob("*"))
                if not any(part.startswith(".") for part in inner.relative_to(path).parts)
                and inner.is_file()
                and file_kind(inner)
            ]
        elif not path.exists():
            raise ImportRefused(f"{path}: no such file or folder")
        elif not file_kind(path):
            raise ImportRefused(f"{path}: not a kind that can be imported ({', '.join(_KINDS)})")
        else:
            files.append(path)
    return files


def total_bytes(files: list[Path]) -> int:
    """The size on the disk, as :func:`read_file` reports its progress."""
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


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column (or field of a JSON object) is what; the others become metadata.

    With ``text`` None a JSON line is a document as the API takes it, and a CSV file has the
    columns ``text`` and, where they are there, ``title``, ``id`` and ``label``.
    """

    text: str | None = None
    label: str | None = None
    title: str | None = None
    id: str | None = None

    @property
    def given(self) -> bool:
        """Whether any column is named."""
        return any((self.text, self.label, self.title, self.id))


def read_file(
    path: Path,
    *,
    columns: Columns | None = None,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Item]:
    """(line, document or why it is none) for each row of a file; a text file is one document.

    ``root`` is the folder that a text file's id and metadata are relative to (default: its own);
    ``progress`` is called with the bytes read since the last call.

    Raises:
        ImportRefused: the file as a whole, as by :func:`find_files`, or a column it lacks.
    """
    columns = columns or Columns()
    kind = file_kind(path)
    if kind == "text":
        yield from _read_text(path, root or path.parent, progress)
        return
    if not kind:
        raise ImportRefused(f"{path}: not a kind that can be imported")
    with path.open("rb") as raw, decompressed(path, raw) as stream:
        reported = 0
        items = (
            _read_json_lines(stream, columns)
            if kind == "json"
            else _read_csv(path, stream, columns)
        )
        for item in _compression_errors(path, items):
            yield item
            if progress is not None:
                position = raw.tell()
                if position != reported:
                    progress(position - reported)
                    reported = position
        if progress is not None:
            progress(path.stat().st_size - reported)


def _json_document(raw: bytes, columns: Columns) -> Document:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        detail = error.msg.partition(": line")[0]
        raise InvalidDocument("", f"not JSON: {detail} (character {error.pos})") from None
    if not columns.given:
        return parse_document(value)
    if not isinstance(value, dict):
        raise InvalidDocument("", "a line is a JSON object")
    return parse_document(_from_columns(value, columns))


def _read_json_lines(stream: BinaryIO, columns: Columns) -> Iterator[Item]:
    for number, line in _lines(stream):
        if isinstance(line, InvalidDocument):
            yield number, line
        elif line.strip():
            try:
                yield number, _json_document(line, columns)
            except InvalidDocument as error:
                yield number, error


def _read_csv(path: Path, stream: BinaryIO, columns: Columns) -> Iterator[Item]:
    # The module's own limit of 131,072 characters is for all of the process: it is only raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    # Bytes that are not UTF-8 pass as lone surrogates to their row, which is then refused.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    first = text.readline()
    text.seek(0)
    rows = csv.reader(text, delimiter=_delimiter(path, first))
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise ImportRefused(f"{path}: the first line is not a CSV header: {error}") from error
    used = _csv_columns(path, header, columns)
    line = rows.line_num + 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            yield line, InvalidDocument("", f"not CSV: {error}")
        else:
            if row:
                yield line, _csv_document(row, header, used)
        line = rows.line_num + 1
    text.detach()


def _csv_columns(path: Path, header: list[str], columns: Columns) -> Columns:
    for name in (columns.text or "text", columns.label, columns.title, columns.id):
        if name is not None and name not in header:
            there = ", ".join(header[:20])
            raise ImportRefused(f"{path}: there is no column {name!r}; there are: {there}")

    def default(name: str) -> str | None:
        return name if name in header else None

    return Columns(
        columns.text or "text",
        columns.label or default("label"),
        columns.title or default("title"),
        columns.id or default("id"),
    )


def _csv_document(
    row: list[str], header: list[str], columns: Columns
) -> Document | InvalidDocument:
    if len(row) != len(header):
        return InvalidDocument("", f"{len(row)} columns where the header has {len(header)}")
    for name, cell in zip(header, row, strict=True):
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            return InvalidDocument("", f"not UTF-8 (column {name!r}, character {error.start})")
    values = {name: cell for name, cell in zip(header, row, strict=True) if cell != ""}
    try:
        return parse_document(_from_columns(values, columns))
    except InvalidDocument as error:
        return error


def _from_columns(row: Mapping[str, object], columns: Columns) -> dict[str, object]:
    """A document's shape from named columns; the other columns become metadata."""
    values = dict(row)
    shape: dict[str, object] = {}
    for target in ("text", "label", "title", "id"):
        value = values.pop(getattr(columns, target) or target, None)
        if value is None:
            continue
        # Labels and ids are often written as numbers, a title or a text never.
        number = target in ("label", "id") and type(value) is int
        shape[target] = str(value) if number else value
    for name in _OWN_FIELDS:
        if name in values:
            shape[name] = values.pop(name)
    if values:
        own = shape.get("metadata")
        shape["metadata"] = {**values, **own} if isinstance(own, dict) else values
    return shape


def _read_text(path: Path, root: Path, progress: Progress | None) -> Iterator[Item]:
    name = path.relative_to(root).as_posix()
    size = path.stat().st_size
    try:
        yield 1, _text_document(path, name, size)
    except InvalidDocument as error:
        yield 1, error
    if progress is not None:
        progress(size)


def _text_document(path: Path, name: str, size: int) -> Document:
    if size > MAX_LINE_BYTES:
        raise InvalidDocument("/text", f"{size} bytes; at most {MAX_LINE_BYTES}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidDocument("/text", f"line {line}: not UTF-8 (byte {error.start})") from None
    heading = text.lstrip().partition("\n")[0]
    markdown = path.suffix.lower() != ".txt" and heading.startswith("# ")
    return parse_document(
        {
            # '/' is not for ids; a name too long for one leaves the id to the content.
            "id": name.replace("/", ":") if len(name) <= 256 else None,
            "text": text,
            "title": heading[2:].strip()[:1_000] if markdown else path.stem[:1_000],
            "metadata": {"path": name} if len(name) <= 4_096 else {},
        }
    )


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | InvalidDocument]]:
    """Lines with their numbers; for one that is too long, the error."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) <= MAX_LINE_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield number, InvalidDocument("", f"a line of more than {MAX_LINE_BYTES} bytes")


def _compression_errors(path: Path, items: Iterator[Item]) -> Iterator[Item]:
    try:
        yield from items
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise ImportRefused(f"{path}: the compressed file is damaged: {error}") from error


def _delimiter(path: Path, first: str) -> str:
    if ".tsv" in (s.lower() for s in path.suffixes):
        return "\t"
    return max(",;\t", key=first.count)  # the comma where they are equally many
