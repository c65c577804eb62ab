"""Files become documents line by line, and a bad line is told and loses nothing else."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_data.documents import Document, InvalidDocument
from index_data.importing.importers import (
    MAX_LINE_BYTES,
    Columns,
    ImportRefused,
    find_files,
    read_file,
    total_bytes,
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def told(path: Path, columns: Columns | None = None) -> list[tuple[int, str]]:
    """(line, text of the document or what is wrong)."""
    return [
        (line, item.text if isinstance(item, Document) else f"{item.pointer}: {item.detail}")
        for line, item in read_file(path, columns=columns)
    ]


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one", "label": "a"}',
        b"",
        b'{"text": "two"',
        b'{"text": ""}',
        b'{"text": "caf\xe9"}',
        b'{"text": "x", "colour": 1}',
        b'{"text": "\\ud800"}',
        b'{"text": "n", "metadata": {"x": NaN}}',
        b'{"text": "n", "metadata": {"x": 1e999}}',
        b"[" * 100_000,
        b"[1]",
        b'{"text": "last"}',
    ]
    found = told(write(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert [line for line, _ in found] == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    texts = [text for _, text in found]
    assert texts[0] == "one"
    assert texts[-1] == "last"
    assert texts[1].startswith(": not JSON")
    assert texts[2] == "/text: text is empty"
    assert "not JSON" in texts[3]
    assert texts[4] == "/colour: unknown field"
    assert all("not JSON" in text or "/" in text or "object" in text for text in texts[5:-1])


def test_json_lines_with_columns(tmp_path: Path) -> None:
    row = {"sentence": "s", "class": 3, "idx": 7, "lang": "en", "metadata": {"a": 1}, "b": [2]}
    path = write(tmp_path, "a.ndjson", json.dumps(row) + "\n3\n")
    (_, document), (_, refused) = read_file(path, columns=Columns("sentence", "class", id="idx"))
    assert isinstance(document, Document)
    assert (document.id, document.text, document.lang) == ("7", "s", "en")
    assert document.labels == {"label": "3"}
    assert document.metadata == {"a": 1, "b": [2]}
    assert isinstance(refused, InvalidDocument)


def test_a_line_too_long_is_told_and_skipped(tmp_path: Path) -> None:
    long = b'{"text": "' + b"x" * (2 * MAX_LINE_BYTES) + b'"}\n'
    path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n' + long + b'{"text": "b"}\n')
    found = told(path)
    assert [found[0], found[2]] == [(1, "a"), (3, "b")]
    assert "more than" in found[1][1]


def test_csv(tmp_path: Path) -> None:
    content = (
        'text,label,year\n"two\nlines",a,2020\nshort\n,b,1\nmore,c,\n"quoted ""x""",d,3\nlast,,4\n'
    )
    path = write(tmp_path, "a.csv", content)
    items = list(read_file(path))
    assert [line for line, _ in items] == [2, 4, 5, 6, 7, 8]
    assert told(path)[1:3] == [
        (4, ": 1 columns where the header has 3"),
        (5, "/text: text is required and must be a string"),
    ]
    first, last = items[0][1], items[-1][1]
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert (first.text, first.labels, first.metadata) == (
        "two\nlines",
        {"label": "a"},
        {"year": "2020"},
    )
    assert last.labels == {}


def test_a_row_that_is_not_utf_8_is_told_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\ngood,a\nb\xe4d,b\nfine,c\n")
    assert told(path) == [
        (2, "good"),
        (3, ": not UTF-8 (column 'text', character 1)"),
        (4, "fine"),
    ]


def test_other_separators_and_named_columns(tmp_path: Path) -> None:
    tabs = write(tmp_path, "a.tsv", "body\tkind\nx, y\tk\n")
    semicolons = write(tmp_path, "b.csv", "body;kind\nx, y;k\n")
    for path in (tabs, semicolons):
        ((_, document),) = read_file(path, columns=Columns(text="body", label="kind"))
        assert isinstance(document, Document)
        assert (document.text, document.labels) == ("x, y", {"label": "k"})


def test_a_missing_column_refuses_the_file_and_names_those_there(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "body,kind\nx,y\n")
    with pytest.raises(ImportRefused, match=r"'text'.*body, kind"):
        list(read_file(path))
    with pytest.raises(ImportRefused, match="'wrong'"):
        list(read_file(path, columns=Columns("body", "wrong")))
    with pytest.raises(ImportRefused):
        list(read_file(write(tmp_path, "empty.csv", "")))


def test_a_long_text_fits_a_cell(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text\n" + "x" * 900_000 + "\n" + "y" * 1_100_000 + "\nz\n")
    found = told(path)
    assert [len(text) for _, text in found[::2]] == [900_000, 1]
    assert "at most 1000000" in found[1][1]


def test_folders_of_text(tmp_path: Path) -> None:
    write(tmp_path, "one/a.txt", "Plain text.")
    write(tmp_path, "one/b.md", "# The title\n\nMarked text.")
    write(tmp_path, "one/.hidden.txt", "no")
    write(tmp_path, ".git/c.txt", "no")
    write(tmp_path, "image.png", b"\x89PNG")
    write(tmp_path, "bad.txt", b"first\nsec\xffond")
    files = find_files([tmp_path])
    assert [f.name for f in files] == ["bad.txt", "a.txt", "b.md"]
    items = [item for f in files for _, item in read_file(f, root=tmp_path)]
    assert isinstance(items[0], InvalidDocument)
    assert items[0].detail == "line 2: not UTF-8 (byte 9)"
    documents = [item for item in items if isinstance(item, Document)]
    assert [(d.id, d.title) for d in documents] == [("one:a.txt", "a"), ("one:b.md", "The title")]
    assert documents[0].metadata == {"path": "one/a.txt"}


def test_what_cannot_be_imported_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="no such file"):
        find_files([tmp_path / "none"])
    with pytest.raises(ImportRefused, match=r"\.jsonl"):
        find_files([write(tmp_path, "a.docx", "x")])


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), ("gz", gzip.compress), ("xz", lzma.compress)]
)
def test_compressed_files_and_progress(tmp_path: Path, suffix: str, pack: object) -> None:
    raw = "".join(f'{{"text": "document {i}"}}\n' for i in range(3_000)).encode()
    assert callable(pack)
    path = write(tmp_path, f"a.jsonl{'.' if suffix else ''}{suffix}", pack(raw))
    steps: list[int] = []
    assert len(list(read_file(path, progress=steps.append))) == 3_000
    assert sum(steps) == total_bytes([path])
    assert all(step >= 0 for step in steps)


@pytest.mark.parametrize("suffix", ["gz", "xz"])
def test_a_cut_compressed_file_is_refused_after_what_could_be_read(
    tmp_path: Path, suffix: str
) -> None:
    raw = "".join(f'{{"text": "document {i * i}"}}\n' for i in range(30_000)).encode()
    packed = gzip.compress(raw) if suffix == "gz" else lzma.compress(raw)
    path = write(tmp_path, f"a.jsonl.{suffix}", packed[: len(packed) // 2])
    with pytest.raises(ImportRefused, match="damaged"):
        list(read_file(path))


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_what_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "note"])
        writer.writerows(rows)
    documents = [item for _, item in read_file(path)]
    assert len(documents) == len(rows)
    for (text, note), item in zip(rows, documents, strict=True):
        if isinstance(item, Document):
            assert item.text == text
            assert item.metadata == ({"note": note} if note else {})


@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.md"]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("any"), name, b"text\n" + content)
    numbers = [line for line, _ in read_file(path)]
    assert numbers == sorted(set(numbers))
