"""``footnote reindex``: a new index generation."""

from __future__ import annotations

import click

from app.cli.output import emit_json, json_option


@click.command()
@click.option("--mode", type=click.Choice(["full", "incremental"]), default="full")
@click.option("--encoder", help="Another base encoder: a folder or a hub id.")
@json_option
def reindex(mode: str, encoder: str | None, as_json: bool) -> None:
    """Build a new index generation from the stored documents; the old one serves meanwhile."""
    from app.cli.client import checked, connect, follow

    with connect() as client:
        job = checked(client.post("/admin/reindex", json={"mode": mode, "encoder": encoder})).json()
        job = follow(client, job, label="reindex")
    if as_json:
        emit_json(job)
    else:
        result = job["result"]
        click.echo(
            f"generation {result['generation']}: {result['documents']} documents, "
            f"sequence {result['sequence']}"
        )
