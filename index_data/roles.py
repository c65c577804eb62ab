"""The role of a document as evidence: an example, or knowledge.

An example shows what a text like it is called: it has a label, or marked entities. Knowledge says
what is so: everything else. ``metadata.role`` says otherwise: ``knowledge`` or ``example``; any
other value there means nothing.
"""

from __future__ import annotations

from typing import Final, Literal

from index_data.documents import Document
from index_data.entities import COLUMN as ENTITIES

Role = Literal["knowledge", "example"]
EvidenceRole = Literal["knowledge", "examples", "all"]  # as a request names it

ROLES: Final[tuple[Role, ...]] = ("example", "knowledge")
"""Of those that a document's metadata name, the last one holds."""
COLUMN: Final = "role"
"""The filter column of the roles. Requests cannot name it in a filter."""
SAID: Final = "metadata.role"
"""The column of what documents say themselves."""


def role_of(document: Document) -> Role:
    """The role that a document's metadata name, or that follows from its labels and entities."""
    said = document.metadata.get("role")
    values = said if isinstance(said, list) else [said]
    for role in reversed(ROLES):
        if role in values:
            return role
    labelled = any(document.label_values(field) for field in document.labels)
    return "example" if labelled or document.metadata.get("entities") else "knowledge"


def marks_example(column: str) -> bool:
    """Whether a document with a value in this column is an example, unless it says otherwise."""
    return column.startswith("labels.") or column == ENTITIES
