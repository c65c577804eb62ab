"""``footnote predict``: one text classified, with what the answer rests on."""

from __future__ import annotations

import sys
from typing import Any

import click

from app.cli.output import emit_json, json_option, shorten, table


@click.command()
@click.argument("text")
@click.option("--field", default="label", show_default=True, help="Label field to predict.")
@click.option(
    "--k", type=click.IntRange(1, 100), help="Hits to read.  [default: as many as the head wants]"
)
@click.option("--method", type=click.Choice(["bm25", "dense", "hybrid"]), help="How to retrieve.")
@click.option("--off", is_flag=True, help="Closed book: without retrieval.")
@json_option
def predict(
    text: str, field: str, k: int | None, method: str | None, off: bool, as_json: bool
) -> None:
    """Classify TEXT ("-" reads it from standard input) and show the documents it rests on."""
    from app.cli.client import ask

    if text == "-":
        text = sys.stdin.read()
    options: dict[str, Any] = {"mode": "off"} if off else {"k": k, "method": method}
    retrieval = {name: value for name, value in options.items() if value is not None}
    body = {"input": text, "field": field, "retrieval": retrieval}
    answer = ask("POST", "/classify", json=body)
    if as_json:
        emit_json(answer)
        return
    item = answer["data"][0]
    if item["label"] is None:
        click.echo(f"no label: no document in the index and no head has the field {field!r}")
        return
    support = item.get("support")
    click.echo(
        f"{item['label']}   confidence {item['confidence']:.3f}"
        + ("" if support is None else f", support {support:.3f}")
        + ("   (abstained)" if item.get("abstained") else "")
    )
    others = ", ".join(f"{s['label']} {s['score']:.3f}" for s in item["scores"][1:4])
    if others:
        click.echo(f"then {others}")
    rows = [
        {
            "rank": c["rank"],
            "weight": c["weight"],
            "label": c.get("label"),
            "document": c["doc_id"],
            "text": shorten(c["text"], 70),
        }
        for c in item["citations"]
    ]
    table(rows, ["rank", "weight", "label", "document", "text"], empty="no citations")
