"""``footnote index``: a user's own files into the document store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import click

from app.cli.output import emit_json, is_terminal, json_option, note, shorten, warn
from index_data.documents import Document
from index_data.importing.importers import (
    Columns,
    ImportRefused,
    find_files,
    read_file,
    total_bytes,
)

BATCH: Final = 500
SHOWN: Final = 20  # rejected lines that are printed; --json has them all
REINDEX_FROM: Final = 20_000  # documents after which a generation is worth its building


@dataclass(frozen=True, slots=True)
class Row:
    """A row and where it stands: a document, or what is wrong with it."""

    path: Path
    line: int
    content: Document | str


@dataclass(frozen=True, slots=True)
class Shape:
    """What becomes of every document that was read. ``fields``: label field by column."""

    fields: dict[str, str]
    lang: str | None
    folder_labels: bool

    def of(self, path: Path, document: Document) -> Document:
        """The document with labels from its columns or its folder, and with a language."""
        metadata, labels = dict(document.metadata), dict(document.labels)
        for column, name in self.fields.items():
            value = metadata.pop(column, None)
            if value is not None:
                labels[name] = str(value)
        if self.folder_labels:
            labels.setdefault("label", path.parent.name)
        lang = document.lang or self.lang
        return replace(document, labels=labels, metadata=metadata, lang=lang)


@dataclass
class Summary:
    """What became of the rows."""

    accepted: int = 0
    created: int = 0
    updated: int = 0
    sequence: int = 0
    rejected: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The shape of ``--json``."""
        rejected = [
            {"file": str(r.path), "line": r.line, "detail": r.content} for r in self.rejected
        ]
        labels = dict(self.labels.most_common())
        seconds = round(self.seconds, 3)
        return {**vars(self), "rejected": rejected, "labels": labels, "seconds": seconds}


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--text-column", help="Column with the text.  [default: text]")
@click.option(
    "--label-column",
    "label_columns",
    multiple=True,
    metavar="[FIELD=]COLUMN",
    help="Column with the label; FIELD=COLUMN for another field than 'label'. May be repeated.",
)
@click.option("--title-column", help="Column with the title.  [default: title, if there is one]")
@click.option("--id-column", help="Column with the id.  [default: id, if there is one]")
@click.option("--lang", help="Language tag of every document that has none of its own.")
@click.option("--label-from-folder", is_flag=True, help="The name of a file's folder is its label.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, store nothing.")
@json_option
def index(
    paths: tuple[Path, ...],
    text_column: str | None,
    label_columns: tuple[str, ...],
    title_column: str | None,
    id_column: str | None,
    lang: str | None,
    label_from_folder: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import documents: JSONL, CSV or TSV (also compressed), and folders of .txt and .md files.

    Columns that a document has no place for go into its metadata. A bad row is named with its line
    and its reason, and the others are stored.

    \b
    footnote index reviews.csv --text-column review --label-column sentiment
    footnote index notes/ --lang en
    """
    named = dict(_field_and_column(entry) for entry in label_columns)
    label = named.pop("label", None)
    columns = Columns(text=text_column, label=label, title=title_column, id=id_column)
    shape = Shape({column: name for name, column in named.items()}, lang, label_from_folder)
    summary = Summary()
    began = time.monotonic()
    try:
        items = _items(list(paths), columns, shape, show=is_terminal())
        if dry_run:
            _check(items, summary)
        else:
            _send(items, summary)
    except ImportRefused as error:
        raise click.ClickException(str(error)) from error
    summary.seconds = time.monotonic() - began
    if as_json:
        emit_json(summary.to_json())
    else:
        _print(summary, dry_run=dry_run)
    if summary.rejected and not summary.accepted:
        raise SystemExit(1)


def _field_and_column(entry: str) -> tuple[str, str]:
    name, separator, column = entry.partition("=")
    return (name, column) if separator else ("label", entry)


def _items(paths: list[Path], columns: Columns, shape: Shape, *, show: bool) -> Iterator[Row]:
    """Every row of every file, under a progress bar with rate and time left."""
    from tqdm import tqdm  # a tenth of a second that --help need not pay

    files = [(file, path) for path in paths for file in find_files([path])]
    total = total_bytes([file for file, _ in files])
    count = 0
    with tqdm(
        total=total, unit="B", unit_scale=True, disable=not show, desc="reading", mininterval=0.3
    ) as bar:
        for file, path in files:
            root = path if path.is_dir() else path.parent
            for line, row in read_file(file, columns=columns, root=root, progress=bar.update):
                count += 1
                if show and count % 100 == 0:
                    rate = count / (bar.format_dict["elapsed"] or 1e-9)
                    bar.set_postfix_str(f"{count} documents, {rate:.0f}/s", refresh=False)
                if isinstance(row, Document):
                    yield Row(file, line, shape.of(file, row))
                else:
                    where = row.pointer.strip("/")
                    yield Row(file, line, f"{where}: {row.detail}" if where else row.detail)


def _check(items: Iterable[Row], summary: Summary) -> None:
    """The dry run: count, and show the first three as they would be stored."""
    for item in items:
        document = item.content
        if isinstance(document, str):
            summary.rejected.append(item)
            continue
        if summary.accepted < 3:
            labels = ", ".join(f"{k}={v}" for k, v in document.labels.items()) or "no label"
            note(f"{document.id}  [{labels}]  {shorten(document.text, 70)}")
        _count(document, summary)


def _count(document: Document, summary: Summary) -> None:
    summary.accepted += 1
    for name in document.labels:
        for value in document.label_values(name):
            summary.labels[value if name == "label" else f"{name}={value}"] += 1


def _send(items: Iterable[Row], summary: Summary) -> None:
    """Store the rows in batches; each batch is durable and searchable before the next is sent."""
    import httpx

    from app.cli.client import checked, connect, follow

    items = iter(items)
    first = next(items, None)  # so that an unreadable file is told before a server is started
    if first is None:
        return
    with connect() as client:
        rest = chain([first], items)
        while batch := list(islice(rest, BATCH)):
            _post(client, batch, summary)
        if summary.accepted >= REINDEX_FROM:
            job = checked(client.post("/admin/reindex", json={"mode": "full"})).json()
            try:
                follow(client, job, label="building the index")
            except httpx.TransportError:
                warn("the server ended before the index was built; the documents are stored")


def _post(client: Any, batch: list[Row], summary: Summary) -> None:
    from app.cli.client import send_documents

    summary.rejected += [item for item in batch if isinstance(item.content, str)]
    good = [(item, item.content) for item in batch if isinstance(item.content, Document)]
    if not good:
        return
    result = send_documents(client, [document for _, document in good])
    refused = {entry["line"]: entry["detail"] for entry in result["rejected"]}
    for number, (item, document) in enumerate(good, start=1):
        if number in refused:
            summary.rejected.append(Row(item.path, item.line, refused[number]))
        else:
            _count(document, summary)
    summary.created += result["created"]
    summary.updated += result["updated"]
    summary.sequence = result["sequence"]
    summary.warnings += [w for w in result.get("warnings", []) if w not in summary.warnings]


def _print(summary: Summary, *, dry_run: bool) -> None:
    for row in summary.rejected[:SHOWN]:
        note(f"rejected  {row.path}:{row.line}: {row.content}")
    if len(summary.rejected) > SHOWN:
        note(f"rejected  and {len(summary.rejected) - SHOWN} more (--json lists all)")
    for warning in summary.warnings:
        warn(warning)
    rate = summary.accepted / max(summary.seconds, 1e-9)
    what = "would be stored" if dry_run else "stored"
    click.echo(
        f"{summary.accepted} documents {what}"
        + ("" if dry_run else f" ({summary.created} new, {summary.updated} updated)")
        + f", {len(summary.rejected)} rejected, in {summary.seconds:.1f} s ({rate:.0f}/s)"
    )
    if summary.labels:
        most = ", ".join(f"{name} {count}" for name, count in summary.labels.most_common(12))
        more = len(summary.labels) - 12
        click.echo(f"labels: {most}" + (f" and {more} more" if more > 0 else ""))
