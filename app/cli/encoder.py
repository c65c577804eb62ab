"""``footnote encoder``: a tokenizer and an encoder of one's own text, from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.output import StepBar, emit_json, json_option, note, warn

if TYPE_CHECKING:
    from model.scratch.train import ScratchText

SHOWN = 10  # bad rows that are named


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the encoder."
)
@click.option("--text-column", help="Column with the text.  [default: text]")
@click.option("--label-column", help="Column with the label.  [default: label, if there is one]")
@click.option(
    "--labels/--no-labels",
    default=True,
    show_default=True,
    help="Learn from labels and entities too.",
)
@click.option(
    "--pieces",
    type=click.Choice(["unigram", "characters"]),
    default="unigram",
    show_default=True,
    help="What a token is: characters suit named entities.",
)
@click.option(
    "--places",
    type=click.Choice(["rotary", "learned"]),
    default="rotary",
    show_default=True,
    help="How words know their distance: a RoFormer or a BERT.",
)
@click.option("--vocab", type=click.IntRange(50, 65_000), default=16_000, show_default=True)
@click.option("--dim", type=click.IntRange(8, 2048), default=256, show_default=True)
@click.option("--layers", type=click.IntRange(1, 48), default=4, show_default=True)
@click.option("--heads", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--max-tokens", type=click.IntRange(8, 512), default=128, show_default=True)
@click.option("--epochs", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(2, 1024), default=64, show_default=True)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True
)
@click.option("--lr", type=float, help="Learning rate.  [default: 5e-4, for sgd 0.1]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def encoder(
    paths: tuple[Path, ...],
    out: Path,
    text_column: str | None,
    label_column: str | None,
    labels: bool,
    pieces: str,
    places: str,
    vocab: int,
    dim: int,
    layers: int,
    heads: int,
    max_tokens: int,
    epochs: int,
    batch_size: int,
    optimizer: str,
    lr: float | None,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Train an encoder for a language or a field that no pretrained one at hand covers.

    Reads what `footnote index` reads. Texts teach it their words; where they carry a label, that
    texts of a label stand together; where they carry entities, what those look like. The folder
    is then named as FOOTNOTE_ENCODER; the same command goes on where an interrupted run stopped.
    """
    from model.scratch.train import ScratchConfig, ScratchText, train_encoder

    if dim % heads:
        raise click.BadParameter(f"{dim} is no multiple of {heads} heads", param_hint="--dim")
    if out.exists():
        raise click.ClickException(f"{out} is there already")
    rows = _rows(paths, text_column, label_column)
    if not labels:
        rows = [ScratchText(row.text) for row in rows]
    names = {row.label for row in rows} - {None}
    types = {kind for row in rows for _, _, kind in row.entities or ()}
    config = ScratchConfig(
        vocabulary=vocab, pieces=pieces, layers=layers, dim=dim, heads=heads,
        max_tokens=max_tokens, epochs=epochs, batch_size=batch_size, seed=seed,
        places="learned" if places == "learned" else "rotary",
        optimizer="sgd" if optimizer == "sgd" else "adamw",
        lr=lr or (0.1 if optimizer == "sgd" else 5e-4),
    )  # fmt: skip
    note(f"{len(rows)} texts, {len(names)} labels, {len(types)} types of entities")
    with StepBar("encoder") as progress:
        try:
            report = train_encoder(rows, config, out, device=device, progress=progress)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the same command goes on") from None
    if as_json:
        emit_json({"encoder": str(out), **report.to_json()})
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
    bad = 0
    try:
        for file in find_files(list(paths)):
            for line, row in read_file(file, columns=columns):
                if isinstance(row, Document):
                    label = row.labels.get("label")
                    kept = label if isinstance(label, str) else None
                    rows.append(ScratchText(row.text, kept, entities_of(row)))
                    continue
                bad += 1
                if bad <= SHOWN:
                    warn(f"{file}:{line}: {row.detail}")
    except ImportRefused as error:
        raise click.ClickException(str(error)) from error
    if bad > SHOWN:
        warn(f"{bad} rows were not taken")
    return rows
