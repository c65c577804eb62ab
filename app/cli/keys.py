"""``footnote keys``: who may do what."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from app.cli.output import emit_json, json_option, note, table


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def keys(context: click.Context, as_json: bool) -> None:
    """List the keys; `add SCOPE` makes one, `revoke ID` takes one away.

    A key is shown once, when it is made: only its SHA-256 digest is kept.
    """
    if context.invoked_subcommand is not None:
        return
    from app.cli.client import ask

    body = ask("GET", "/admin/keys", ready=False)
    if as_json:
        emit_json(body)
        return
    rows = [{**key, "id": key["id"][:12], "created": _when(key["created"])} for key in body["keys"]]
    table(rows, ["id", "scope", "name", "created", "source"], empty="no key")


@keys.command()
@click.argument("scope", type=click.Choice(["predict", "write", "admin"]))
@click.option("--name", default="", help="What the key is for.")
def add(scope: str, name: str) -> None:
    """Make a key and print it, once."""
    from app.cli.client import ask

    made = ask("POST", "/admin/keys", ready=False, json={"scope": scope, "name": name})
    note("Keep this key now: it is not shown again.")
    click.echo(made["key"])


@keys.command()
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Take a key away, by the first 8 or more characters of its id."""
    from app.cli.client import ask

    revoked = ask("DELETE", f"/admin/keys/{key_id}", ready=False)
    click.echo(f"revoked {revoked['id'][:12]} ({revoked['scope']})")


def _when(seconds: float | None) -> str | None:
    """A time as people read it, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
