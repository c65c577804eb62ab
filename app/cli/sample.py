"""``footnote sample``: the sample documents that come with Footnote."""

from __future__ import annotations

from itertools import islice
from typing import Final

import click

BATCH: Final = 500


@click.command()
@click.argument("name", type=click.Choice(["helpdesk", "python", "remove"]))
def sample(name: str) -> None:
    """Load the help desk or the documentation inside the running Python, or remove both.

    Every document of them carries metadata.source = "sample"; `remove` takes out exactly those.
    """
    from tqdm import tqdm

    from app.cli.client import ask, connect, send_documents
    from app.cli.output import is_terminal
    from index_data.sample import helpdesk, python_docs

    if name == "remove":
        deleted = ask("DELETE", "/admin/sample", timeout=300)["deleted"]
        click.echo(f"{deleted} sample documents removed")
        return
    documents = python_docs() if name == "python" else helpdesk()
    rows = iter(tqdm(documents, unit="doc", disable=not is_terminal()))
    stored = 0
    with connect() as client:
        while batch := list(islice(rows, BATCH)):
            stored += send_documents(client, batch)["accepted"]
    click.echo(f"{stored} documents of the sample {name!r} stored")
