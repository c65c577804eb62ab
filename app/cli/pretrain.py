"""``footnote pretrain``: a language model of one's own text, with retrieval in the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from app.cli.output import BadRows, emit_json, json_option, note, resumable, table


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="[NAME=]PATH[:own|:others]...")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint."
)
@click.option(
    "--start",
    metavar="FOLDER",
    help="A language model to go on from, or `shipped`: its shape and tokens are kept.",
)
@click.option("--tokens", type=click.IntRange(1), default=8_000_000, show_default=True)
@click.option("--batch-tokens", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--window", type=click.IntRange(1), default=256, show_default=True)
@click.option("--dim", type=click.IntRange(8), default=256, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=4, show_default=True)
@click.option("--heads", type=click.IntRange(1), default=4, show_default=True)
@click.option("--vocab", type=click.IntRange(300, 65_000), default=8192, show_default=True)
@click.option("--k", type=click.IntRange(1, 16), default=2, show_default=True, help="Passages.")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True
)
@click.option("--lr", type=float, help="Learning rate.  [default: 2e-3, for sgd 0.1]")
@click.option("--held-out", type=click.FloatRange(0, 0.9), default=0.05, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def pretrain(
    paths: tuple[str, ...],
    out: Path,
    start: str | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a small language model on files or folders of text, from nothing or from another one.

    Text is JSON lines (`text`, and `title`, `id` where there are any; .gz, .xz) or plain text, a
    file a document. For each chunk passages are retrieved by what stands before it: from the
    document's own past (:own, for long documents) or from other documents (:others); left out, it
    goes by length. The same command goes on where an interrupted run stopped.
    """
    from app.inference.language_models import generator_source
    from app.schemas.pretrain import SHAPE
    from app.training.pretrain import plan_of, pretrain_from_files, sources_of
    from index_data.importing.importers import ImportRefused
    from model.folders import CheckpointRefused
    from model.training.workspace import TrainingRefused

    source = click.get_current_context().get_parameter_source
    shaped = [name for name in SHAPE if source(name) is ParameterSource.COMMANDLINE]
    if start is not None and shaped:
        raise click.UsageError(f"--{shaped[0]} comes with the model that --start names")
    options["start"] = None if start is None else Path(generator_source(start))
    bad = BadRows()
    refused = (ImportRefused, TrainingRefused, CheckpointRefused, ValueError)
    with resumable("pretrain", *refused) as progress:
        plan = plan_of(out, sources_of(paths), **options)
        plan.device = device
        report = pretrain_from_files(plan, note=note, rejected=bad, progress=progress)
    bad.total()
    if as_json:
        emit_json(report)
        return
    table(
        [{"held out": name, **figures} for name, figures in report["metrics"].items()],
        ["held out", "bits_per_byte", "word_perplexity", "bytes"],
        empty="no held-out document: nothing was measured",
    )
    click.echo(f"checkpoint {out}: {report['tokens']} tokens in {report['seconds']:.0f} s")
