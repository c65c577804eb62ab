"""``footnote reindex``: a new index generation."""

from __future__ import annotations

from typing import Any

import click

from app.cli.output import activate_option, emit_json, json_option, margin_option


@click.command()
@click.option("--mode", type=click.Choice(["full", "incremental"]), default="full")
@click.option("--analyzer", help="standard, unstemmed or all-words; else the one that serves.")
@click.option("--encoder", help="Another base encoder: a folder or a hub id.")
@activate_option(
    "always",
    "Let it serve; if_better: one of another encoder or analyzer only after a paired test.",
)
@click.option(
    "--field", default="label", show_default=True, help="With if_better: the labels to test on."
)
@margin_option
@json_option
def reindex(as_json: bool, **body: Any) -> None:
    """Build a new index generation from the stored documents; the old one serves meanwhile."""
    from app.cli.client import connect, run_job

    with connect() as client:
        job = run_job(client, "/admin/reindex", body, label="reindex")
    if as_json:
        emit_json(job)
        return
    result = job["result"]
    click.echo(
        f"generation {result['generation']}: {result['documents']} documents, "
        f"sequence {result['sequence']}; {'in use' if result['activated'] else 'not in use'}"
    )
    if result["gate"] is not None:
        click.echo(result["gate"]["reason"])
