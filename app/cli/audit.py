"""``footnote audit``: labels that are probably wrong, worst first."""

from __future__ import annotations

import click

from app.cli.output import emit_json, json_option, shorten, table


@click.command()
@click.option("--field", default="label", show_default=True, help="Label field to look at.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@json_option
def audit(field: str, limit: int, as_json: bool) -> None:
    """List documents whose label is contradicted by their neighbours and a held-out head."""
    from app.cli.client import checked, connect, run_job

    with connect() as client:
        body = {"field": field, "limit": limit}
        job = run_job(client, "/admin/audit-labels", body, label="audit")
        path = f"/admin/audit-labels/{job['id']}"
        page = checked(client.get(path, params={"limit": limit})).json()
    if as_json:
        emit_json(page)
        return
    rows = [{**f, "text": shorten(f["text"] or "", 60)} for f in page["findings"]]
    table(rows, ["score", "label", "suggested", "doc_id", "text"], empty="no label is contradicted")
