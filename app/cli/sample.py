"""``footnote sample``: the documents that Footnote brings along to be tried on."""

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
    import orjson

    from app.cli.client import checked, connect
    from index_data.sample import helpdesk, python_docs

    if name == "remove":
        with connect() as client:
            body = checked(client.delete("/admin/sample", timeout=300)).json()
        click.echo(f"{body['deleted']} sample documents removed")
        return
    from tqdm import tqdm

    from app.cli.output import is_terminal

    documents = iter(tqdm(python_docs() if name == "python" else helpdesk(),
                          unit="doc", disable=not is_terminal()))  # fmt: skip
    stored = 0
    with connect() as client:
        while batch := list(islice(documents, BATCH)):
            answer = client.post(
                "/documents",
                content=b"\n".join(orjson.dumps(document.to_json()) for document in batch),
                headers={"Content-Type": "application/x-ndjson"},
                timeout=600,
            )
            stored += checked(answer).json()["accepted"]
    click.echo(f"{stored} documents of the sample {name!r} stored")
