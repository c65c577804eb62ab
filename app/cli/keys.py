"""``footnote keys``: who may do what."""

from __future__ import annotations

import click

from app.cli.output import emit_json, json_option, note, table, when


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def keys(context: click.Context, as_json: bool) -> None:
    """List the keys; `add SCOPE` makes one, `revoke ID` takes one away.

    Of a key only the SHA-256 digest is kept: it is shown once, when it is made.
    """
    if context.invoked_subcommand is not None:
        return
    from app.cli.client import checked, connect

    with connect(ready=False) as client:
        body = checked(client.get("/admin/keys")).json()
    if as_json:
        emit_json(body)
        return
    rows = [{**row, "id": row["id"][:12], "created": when(row["created"])} for row in body["keys"]]
    table(rows, ["id", "scope", "name", "created", "source"], empty="no key")


@keys.command()
@click.argument("scope", type=click.Choice(["predict", "write", "admin"]))
@click.option("--name", default="", help="What the key is for.")
def add(scope: str, name: str) -> None:
    """Make a key and print it, once."""
    from app.cli.client import checked, connect

    with connect(ready=False) as client:
        body = {"scope": scope, "name": name}
        answer = checked(client.post("/admin/keys", json=body)).json()
    note("Keep this key now: it is not shown again.")
    click.echo(answer["key"])


@keys.command()
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Take a key away, by the first 8 or more characters of its id."""
    from app.cli.client import checked, connect

    with connect(ready=False) as client:
        answer = checked(client.delete(f"/admin/keys/{key_id}")).json()
    click.echo(f"revoked {answer['id'][:12]} ({answer['scope']})")
