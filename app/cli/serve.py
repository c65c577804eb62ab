"""``footnote serve``: the REST API."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Final

import click

from app.cli.client import settings_or_exit
from app.cli.output import note

if TYPE_CHECKING:
    from app.settings import Settings
    from app.state import Footnote

TRY: Final = {"input": "I was charged twice for one order"}


@click.command()
@click.option("--host", help="Address to listen on.  [default: FOOTNOTE_HOST or 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on, 0 for a free one.  [default: FOOTNOTE_PORT or 8000]",
)
def serve(host: str | None, port: int | None) -> None:
    """Serve the REST API. The port opens at once; /health/ready tells when all is loaded."""
    settings = settings_or_exit()
    given = {"host": host, "port": port}
    settings = settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    refuse_second(settings)
    # From here on it takes a second or two: the libraries of the server are imported.
    from app.cli.local import allow_connections, bind, make_server, open_state, url_of
    from app.web.middleware import configure_logging

    configure_logging(settings.log_format, settings.log_level)
    listening = bind(settings.host, settings.port)
    address = url_of(listening)
    allow_connections()
    footnote = open_state(settings, address)
    greet(footnote, address)
    threading.Thread(target=announce, args=(footnote, address), daemon=True).start()
    try:
        make_server(footnote).run([listening])
    except KeyboardInterrupt:
        note("stopped")


def refuse_second(settings: Settings) -> None:
    """End the command at once when another process has the store."""
    from index_data.storage.lock import holder

    holding = holder(settings.store_dir)
    if holding is not None:
        where = f" and serves at {holding.address}" if holding.address else ""
        raise click.ClickException(
            f"the store {settings.store_dir} is held by process {holding.pid or '?'}{where}. "
            "One server at a time: stop that one, or set FOOTNOTE_STORE_DIR to another folder."
        )


def greet(footnote: Footnote, address: str) -> None:
    """Say where it listens and who may come in. A key that was just made is shown this once."""
    click.echo(f"Footnote listens at {address}")
    click.echo(f"  documentation: {address}/docs")
    if footnote.new_key:
        click.echo("  no key was configured for this address, so this admin key was made.")
        click.echo("  Keep it now, it is not shown again:")
        click.echo(f"    {footnote.new_key}")
    elif footnote.keys.open:
        click.echo("  no key is configured: everybody on this machine may use it")
    else:
        click.echo("  requests need a key: Authorization: Bearer <key>")


def announce(footnote: Footnote, address: str) -> None:
    """Tell each stage as it begins, then what to try."""
    from app.inference.loading import rest_from_collection

    began, stage = time.monotonic(), ""
    status = footnote.status
    while not status.ready:
        if status.failed:
            note(f"  {status.stage} failed: {status.detail}")
            return
        if status.stage != stage:
            stage = status.stage
            click.echo(f"  {stage} ...")
        time.sleep(0.05)
    rest_from_collection()
    serving, searcher = footnote.snapshot().serving, footnote.open_index().searcher
    count = sum(view.count for view in searcher.views)
    model = "none" if serving is None else serving.model.version
    click.echo(f"Ready after {time.monotonic() - began:.1f} s: {count} documents, model {model}")
    for problem in footnote.snapshot().degraded:
        click.echo(f"  but: {problem}")
    click.echo("Try it:")
    click.echo(f"  {curl(footnote, address)}")


def curl(footnote: Footnote, address: str) -> str:
    """One call that works as it is pasted."""
    settings = footnote.settings
    key = ""
    if footnote.new_key:
        key = f" -H 'Authorization: Bearer {footnote.new_key}'"
    elif settings.admin_key:
        key = ' -H "Authorization: Bearer $FOOTNOTE_ADMIN_KEY"'
    elif settings.predict_key:
        key = ' -H "Authorization: Bearer $FOOTNOTE_PREDICT_KEY"'
    elif not footnote.keys.open:
        key = " -H 'Authorization: Bearer <key>'"
    body = json.dumps(TRY)
    return f"curl -s {address}/classify -H 'Content-Type: application/json'{key} -d '{body}'"
