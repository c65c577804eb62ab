"""The sample: a help desk written for Footnote, and the documentation inside the running Python.

`helpdesk()` is what a fresh store is filled with: tickets to the made-up shop "Northlight
Electronics" and the knowledge articles that answer them. `helpdesk_heldout()` is the part kept
apart for measuring. `python_docs()` is built from the running interpreter. Every document carries
`metadata.source = "sample"`, by which they are told apart and removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files

from index_data.documents import Document, parse_document
from index_data.sample.python_docs import python_docs

__all__ = ["helpdesk", "helpdesk_heldout", "python_docs"]


def helpdesk() -> Iterator[Document]:
    """Tickets that are not held out (labelled), then articles (unlabelled), in a fixed order."""
    return _read("helpdesk.jsonl")


def helpdesk_heldout() -> list[Document]:
    """Labelled tickets that no shipped checkpoint has seen and no fresh store holds."""
    return list(_read("heldout.jsonl"))


def _read(name: str) -> Iterator[Document]:
    resource = files("index_data.sample").joinpath(name)
    with resource.open("r", encoding="utf-8") as lines:
        for line in lines:
            yield parse_document(json.loads(line))
