"""``footnote evaluate``: how good the model is, with retrieval and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from app.cli.output import emit_json, is_terminal, json_option, table
from index_data.documents import Document
from index_data.importing.importers import Columns, ImportRefused, read_file

BATCH: Final = 32


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--field", default="label", show_default=True, help="Label field to measure.")
@click.option("--text-column", default="text", show_default=True)
@click.option("--label-column", default="label", show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Measure on at most so many rows.")
@json_option
def evaluate(
    file: Path | None,
    field: str,
    text_column: str,
    label_column: str,
    limit: int | None,
    as_json: bool,
) -> None:
    """Measure on the labelled rows of FILE, or on the indexed documents that were held out.

    Indexed documents never count as evidence for themselves, nor do their near-duplicates.
    """
    from app.cli.client import connect, run_job

    if file is not None:
        try:
            rows = _rows(file, Columns(text=text_column, label=label_column))[:limit]
        except ImportRefused as error:
            raise click.ClickException(str(error)) from error
        if not rows:
            raise click.ClickException(f"{file}: no row with a label")
        with connect() as client:
            metrics = {mode: _measure(client, rows, field, mode) for mode in ("on", "off")}
        result: dict[str, Any] = {"rows": len(rows), "metrics": metrics}
    else:
        body: dict[str, Any] = {"field": field}
        if limit is not None:
            body["limit"] = limit
        with connect() as client:
            result = run_job(client, "/admin/evaluate", body, label="evaluate")["result"]
    if as_json:
        emit_json(result)
        return
    lines = [{"retrieval": name, **numbers} for name, numbers in result["metrics"].items()]
    click.echo(f"{result['rows']} rows")
    table(lines, list(lines[0]))


def _rows(file: Path, columns: Columns) -> list[tuple[str, str]]:
    """Text and label of each row that has one. A bad row would make the figures wrong."""
    rows = []
    for line, row in read_file(file, columns=columns):
        if not isinstance(row, Document):
            raise ImportRefused(f"{file}:{line}: {row.detail}")
        label = row.labels.get("label")
        if isinstance(label, str):
            rows.append((row.text, label))
    return rows


def _measure(client: Any, rows: list[tuple[str, str]], field: str, mode: str) -> dict[str, float]:
    """Accuracy and mean confidence over the server's own route."""
    from tqdm import tqdm

    from app.cli.client import checked

    right, confidence, abstained = 0, 0.0, 0
    retrieval = {"mode": "off"} if mode == "off" else {}
    with tqdm(total=len(rows), desc=f"retrieval {mode}", disable=not is_terminal()) as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            body = {"input": [text for text, _ in batch], "field": field, "retrieval": retrieval}
            items = checked(client.post("/classify", json=body, timeout=300)).json()["data"]
            for item, (_, label) in zip(items, batch, strict=True):
                right += item.get("label") == label
                confidence += item.get("confidence") or 0.0
                abstained += bool(item.get("abstained"))
            bar.update(len(batch))
    return {
        "accuracy": right / len(rows),
        "mean_confidence": confidence / len(rows),
        "abstained": abstained / len(rows),
    }
