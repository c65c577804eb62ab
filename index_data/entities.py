"""Named entities of a document: ``metadata.entities``, a list of ``{start, end, type, text?}``.

Places are code points of the document's text. Entities do not overlap; they may come in any order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

COLUMN: Final = "metadata.entities"
"""The filter column whose values are the types that a document's entities have."""
MAX_ENTITIES: Final = 1_000
MAX_TYPE_CHARS: Final = 256

Entities = tuple[tuple[int, int, str], ...]
Fault = tuple[str, str]
"""Where (a JSON pointer relative to the list), and what is wrong."""


def fault_in(text: str, raw: object) -> Fault | None:
    """What is wrong with the entities of a text, if anything; it quotes nothing."""
    if not isinstance(raw, list):
        return "", "must be a list of {start, end, type}"
    if len(raw) > MAX_ENTITIES:
        return "", f"{len(raw)} entities; at most {MAX_ENTITIES}"
    for i, entity in enumerate(raw):
        fault = _fault(text, entity)
        if fault is not None:
            return f"/{i}{fault[0]}", fault[1]
    order = sorted(range(len(raw)), key=lambda i: (raw[i]["start"], raw[i]["end"], i))
    for before, after in pairwise(order):
        if raw[after]["start"] < raw[before]["end"]:
            return f"/{max(before, after)}", f"overlaps entity {min(before, after)}"
    return None


def spans(raw: list[dict[str, Any]]) -> Entities:
    """Checked entities as (start, end, type), in order."""
    return tuple(sorted((e["start"], e["end"], e["type"]) for e in raw))


def within(entities: Entities, start: int, end: int) -> Entities:
    """Those that lie wholly in a passage, with places in the passage."""
    return tuple((a - start, b - start, kind) for a, b, kind in entities if start <= a and b <= end)


def _fault(text: str, entity: object) -> Fault | None:
    if not isinstance(entity, dict):
        return "", "must be an object with start, end and type"
    for name in ("start", "end"):
        if isinstance(entity.get(name), bool) or not isinstance(entity.get(name), int):
            return f"/{name}", "must be a whole number"
    start, end, kind = entity["start"], entity["end"], entity.get("type")
    if not 0 <= start < end <= len(text):
        return "", f"[{start}, {end}) does not lie within the {len(text)} characters of the text"
    if not isinstance(kind, str) or not 1 <= len(kind) <= MAX_TYPE_CHARS or not kind.strip():
        return "/type", f"must be a string of 1 to {MAX_TYPE_CHARS} characters"
    if "text" in entity and entity["text"] != text[start:end]:
        return "/text", "is not what stands at start to end (code points of the text)"
    return None
