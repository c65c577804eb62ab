"""Which documents are evidence for a label field, for entities, and for a text.

The server and the trainings ask here, so that a head is fitted on what it will be given. ``own`` is
the filter of a request, which holds too.
"""

from __future__ import annotations

from index_data.filters import EXAMPLES, KNOWLEDGE, MARKED, Filter, examples_of
from index_data.roles import EvidenceRole
from index_data.search.searcher import Searcher


def label_evidence(
    field: str, role: EvidenceRole | None = None, own: Filter | None = None
) -> Filter | None:
    """Of a label field: by default the examples that carry it."""
    if role == "all":
        return own
    return (KNOWLEDGE if role == "knowledge" else examples_of(field)).also(own)


def entity_evidence(role: EvidenceRole | None = None, own: Filter | None = None) -> Filter:
    """Of entities: sentences in which they are marked, by default the examples among them."""
    if role == "all":
        return MARKED.also(own)
    return MARKED.also(KNOWLEDGE if role == "knowledge" else EXAMPLES).also(own)


def text_evidence(
    searcher: Searcher, role: EvidenceRole | None = None, own: Filter | None = None
) -> Filter | None:
    """Of a question, a dialogue or a prompt: by default knowledge; where no knowledge passes
    ``own``, everything that does.
    """
    if role == "all":
        return own
    wanted = (EXAMPLES if role == "examples" else KNOWLEDGE).also(own)
    return wanted if role is not None or searcher.holds(wanted) else own
