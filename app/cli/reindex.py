"""``footnote reindex``: a new index generation."""

from __future__ import annotations

import click

from app.cli.output import emit_json, json_option


@click.command()
@click.option("--mode", type=click.Choice(["full", "incremental"]), default="full")
@click.option("--analyzer", help="standard, unstemmed or all-words; else the one that serves.")
@click.option("--encoder", help="Another base encoder: a folder or a hub id.")
@click.option(
    "--activate",
    type=click.Choice(["never", "if_better", "always"]),
    default="always",
    show_default=True,
    help="Let it serve; if_better: one of another encoder or analyzer only after a paired test.",
)
@click.option(
    "--field", default="label", show_default=True, help="With if_better: the labels to test on."
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 0.5),
    default=0.0,
    show_default=True,
    help="With if_better: by how much accuracy may surely be worse; 0: it has to be better.",
)
@json_option
def reindex(
    mode: str,
    analyzer: str | None,
    encoder: str | None,
    activate: str,
    field: str,
    margin: float,
    as_json: bool,
) -> None:
    """Build a new index generation from the stored documents; the old one serves meanwhile."""
    from app.cli.client import checked, connect, follow

    body = {
        "mode": mode,
        "analyzer": analyzer,
        "encoder": encoder,
        "activate": activate,
        "field": field,
        "margin": margin,
    }
    with connect() as client:
        job = checked(client.post("/admin/reindex", json=body)).json()
        job = follow(client, job, label="reindex")
    if as_json:
        emit_json(job)
    else:
        result = job["result"]
        click.echo(
            f"generation {result['generation']}: {result['documents']} documents, "
            f"sequence {result['sequence']}; {'in use' if result['activated'] else 'not in use'}"
        )
        if result["gate"] is not None:
            click.echo(result["gate"]["reason"])
