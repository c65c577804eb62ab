"""``footnote encoder``: a tokenizer and an encoder of one's own text, from nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from app.cli.output import BadRows, emit_json, json_option, note, resumable

if TYPE_CHECKING:
    from model.scratch.train import ScratchText


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the encoder."
)
@click.option("--text-column", help="Column with the text.  [default: text]")
@click.option("--label-column", help="Column with the label.  [default: label, if there is one]")
@click.option(
    "--tokenizer",
    type=click.Choice(["unigram", "characters"]),
    default="unigram",
    show_default=True,
    help="What a token is: characters suit named entities.",
)
@click.option("--epochs", type=click.IntRange(1, 1000), default=10, show_default=True)
@json_option
def encoder(
    paths: tuple[Path, ...],
    out: Path,
    text_column: str | None,
    label_column: str | None,
    tokenizer: Literal["unigram", "characters"],
    epochs: int,
    as_json: bool,
) -> None:
    """Train an encoder for a language or a field that no pretrained one at hand covers.

    Reads what `footnote index` reads. Texts teach it their words; where they carry a label, that
    texts of a label stand together; where they carry entities, what those look like. The folder
    is then named as FOOTNOTE_ENCODER; the same command goes on where an interrupted run stopped.
    It runs on a GPU where there is one.
    """
    from model.config import pick_device
    from model.scratch.train import ScratchConfig, train_encoder

    if out.exists():
        raise click.ClickException(f"{out} is there already")
    rows = _rows(paths, text_column, label_column)
    labels = {row.label for row in rows} - {None}
    types = {kind for row in rows for _, _, kind in row.entities or ()}
    note(f"{len(rows)} texts, {len(labels)} labels, {len(types)} types of entities")
    config = ScratchConfig(tokenizer=tokenizer, epochs=epochs)
    with resumable("encoder", ValueError) as progress:
        report = train_encoder(rows, config, out, device=pick_device("auto"), progress=progress)
    if as_json:
        emit_json({"encoder": str(out), **asdict(report)})
        return
    losses = ", ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    click.echo(
        f"{out}: {report.parameters / 1e6:.1f}M parameters, {report.vocabulary} tokens, "
        f"{report.seconds:.0f} s; losses of the last epoch: {losses}"
    )
    click.echo(f"next: FOOTNOTE_ENCODER={out} footnote serve")


def _rows(
    paths: tuple[Path, ...], text_column: str | None, label_column: str | None
) -> list[ScratchText]:
    """Every text, with its label where it has exactly one, with its entities where it names them.

    Bad rows are named and left out.
    """
    from index_data.documents import Document, entities_of
    from index_data.importing.importers import Columns, ImportRefused, find_files, read_file
    from model.scratch.train import ScratchText

    columns = Columns(text=text_column, label=label_column)
    rows: list[ScratchText] = []
    bad = BadRows()
    try:
        for file in find_files(list(paths)):
            for line, row in read_file(file, columns=columns):
                if isinstance(row, Document):
                    label = row.labels.get("label")
                    single = label if isinstance(label, str) else None
                    rows.append(ScratchText(row.text, single, entities_of(row)))
                else:
                    bad(file, line, row.detail)
    except ImportRefused as error:
        raise click.ClickException(str(error)) from error
    bad.total()
    return rows
