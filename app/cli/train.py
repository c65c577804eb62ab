"""``footnote train``: a head for labels, entities or questions, by a job of the server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.output import (
    SHOWN,
    activate_option,
    emit_json,
    json_option,
    margin_option,
    note,
    table,
    warn,
)

if TYPE_CHECKING:
    import httpx


@click.command()
@click.option("--field", help="Label field to learn.  [default: label, or sentiment]")
@click.option(
    "--task",
    type=click.Choice(["classification", "sentiment", "qa", "ner"]),
    default="classification",
    show_default=True,
    help="Task of the head; qa needs --dataset.",
)
@click.option("--dataset", help="Uploaded set, or a file to upload (NDJSON, SQuAD; .gz too).")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True
)
@click.option("--lr", type=float, help="Learning rate.  [default: by optimizer]")
@click.option("--epochs", type=click.IntRange(1, 1000), help="[default: by number of rows]")
@click.option("--batch-size", type=click.IntRange(1, 1024), help="[default: by number of rows]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--k", type=click.IntRange(1, 100), help="Hits retrieved for each row.")
@click.option("--holdout", type=float, help="Share of the rows to measure on.  [default: 0.1]")
@activate_option("if_better", "Put the new checkpoint in use.")
@margin_option
@json_option
def train(dataset: str | None, k: int | None, as_json: bool, **options: Any) -> None:
    """Train a head and report it with retrieval on, off and without (none).

    Labels and entities (--task ner) are learned from the indexed documents, answers (--task qa)
    from a dataset. Runs in the server if one holds the store, else here. Ctrl-C cancels.
    """
    from app.cli.client import checked, connect, follow

    body = {name: value for name, value in options.items() if value is not None}
    if k is not None:
        body["retrieval"] = {"k": k}
    with connect() as client:
        if dataset is not None:
            body["dataset"] = known_dataset(client, dataset)
        job = checked(client.post("/admin/train", json=body)).json()
        note(f"job {job['id']}")
        job = follow(client, job, label="train")
    if as_json:
        emit_json(job)
    else:
        show(job["result"])


def known_dataset(client: httpx.Client, given: str) -> str:
    """The id of a dataset; a file is uploaded first, and its bad rows are named."""
    from app.cli.client import checked

    path = Path(given)
    if not path.exists():
        return given
    response = client.post(
        "/admin/datasets",
        params={"name": path.name},
        content=dataset_lines(path),
        headers={"Content-Type": "application/x-ndjson"},
    )
    made = checked(response).json()
    note(f"dataset {made['id']}: {made['rows']} rows of shape {made['kind']}")
    for row in made["rejected"][:SHOWN]:
        warn(f"line {row['line']} {row['pointer']}: {row['detail']}")
    if made["rejected_count"] > SHOWN:
        warn(f"{made['rejected_count']} rows were not taken")
    return str(made["id"])


def dataset_lines(path: Path) -> Iterator[bytes]:
    """A file's lines; of a JSON file, which is one object or list (SQuAD), one line a row."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        if ".json" not in path.suffixes:
            yield from file
            return
        whole = json.load(file)
    rows = whole.get("data", [whole]) if isinstance(whole, dict) else whole
    for row in rows:
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


def show(result: dict[str, Any]) -> None:
    """The report of a training job, as a person reads it."""
    report = result["report"]
    for warning in report.get("warnings", []):
        warn(warning)
    table(
        [{"": name, **numbers} for name, numbers in report["metrics"].items()],
        ["", *next(iter(report["metrics"].values()), {})],
        empty="no held-out rows: nothing was measured",
    )
    state = "in use" if result["activated"] else "kept, not in use"
    click.echo(f"checkpoint {result['version']}: {state}. {result['reason']}")
