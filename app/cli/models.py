"""``footnote models``: the checkpoints, and which one serves."""

from __future__ import annotations

import click

from app.cli.output import emit_json, json_option, table


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the checkpoints; `activate VERSION` puts one in use, `rollback` goes back."""
    if context.invoked_subcommand is not None:
        return
    from app.cli.client import ask

    body = ask("GET", "/admin/models", ready=False)
    if as_json:
        emit_json(body)
        return
    rows = [
        {
            "version": entry["version"],
            "in use": entry["active"],
            "fields": ", ".join(entry.get("fields", [])),
            "problem": entry["problem"],
        }
        for entry in body["models"]
    ]
    table(rows, ["version", "in use", "fields", "problem"], empty="no checkpoint")


@models.command()
@click.argument("version")
def activate(version: str) -> None:
    """Put a checkpoint in use: loaded, warmed up, then swapped in whole."""
    _post(f"/admin/models/{version}/activate")


@models.command()
def rollback() -> None:
    """Put the checkpoint in use that was in use before."""
    _post("/admin/models/rollback")


def _post(path: str) -> None:
    from app.cli.client import ask

    click.echo(f"in use: {ask('POST', path, timeout=300)['version']}")
