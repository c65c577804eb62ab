"""Write the sample, helpdesk.jsonl and heldout.jsonl, from index_data/sample/source/*.jsonl.

    python -m scripts.build_sample

A source line of a ticket is `{"text", "label", "sentiment", "title"?, "entities"?: [[surface,
type]], "hard"?, "heldout"?}`, of an article `{"title", "text", "topic"}`. The language is in the
file's name (`tickets_en_1.jsonl`, `articles_zh.jsonl`). The build numbers the lines, finds the
offsets of the entities and refuses what would spoil a measurement: duplicates, and held-out tickets
that nearly repeat a shipped one.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from index_data.documents import near_duplicate, normalise, parse_document

FOLDER = Path(__file__).resolve().parent.parent / "index_data" / "sample"
LABELS = (
    "billing",
    "delivery",
    "returns",
    "account",
    "technical",
    "product",
    "cancellation",
    "praise",
)
SENTIMENTS = ("positive", "negative")
ENTITY_TYPES = ("PRODUCT", "ORDER", "PLACE", "PERSON", "CARRIER", "DATE", "MONEY")
TICKET_FIELDS = {"text", "title", "label", "sentiment", "entities", "hard", "heldout"}
ARTICLE_FIELDS = {"text", "title", "topic"}
_BORDER = "(?:(?<![A-Za-z0-9])|(?![A-Za-z0-9]))"

Raw = dict[str, Any]


class SourceError(ValueError):
    """A source line cannot become a document; the message names the file and the line."""


def locate(text: str, entities: Iterable[tuple[str, str]]) -> list[Raw]:
    """Offsets in code points of each surface string, in order of occurrence.

    A surface listed twice stands for its first two occurrences. Spans never overlap and never begin
    or end inside a run of ASCII letters or digits ("Tarn" is not found in "Tarnish").

    Raises:
        SourceError: a surface string does not occur (often enough) in the text.
    """
    located: list[Raw] = []
    for surface, kind in entities:
        # A look-ahead, so that occurrences may overlap: the next may be free where this is not.
        pattern = f"(?={_BORDER}{re.escape(surface)}{_BORDER})" if surface else "(?!)"
        for match in re.finditer(pattern, text):
            start, end = match.start(), match.start() + len(surface)
            if all(end <= other["start"] or start >= other["end"] for other in located):
                located.append({"start": start, "end": end, "type": kind, "text": surface})
                break
        else:
            raise SourceError(f"entity {surface!r} does not occur in {text!r}")
    return sorted(located, key=itemgetter("start"))


def ticket(raw: Raw, lang: str, number: int) -> Raw:
    """A source line as a document; `SourceError` when a field is unknown or outside its values."""
    _only(raw, TICKET_FIELDS)
    if raw["label"] not in LABELS:
        raise SourceError(f"unknown label {raw['label']!r}")
    sentiment = raw.get("sentiment")
    if sentiment is not None and sentiment not in SENTIMENTS:
        raise SourceError(f"unknown sentiment {sentiment!r}")
    labels = {"label": raw["label"]} | ({"sentiment": sentiment} if sentiment else {})
    metadata: Raw = {"source": "sample", "kind": "ticket"}
    if raw.get("hard"):
        metadata["hard"] = True
    entities = [(str(surface), str(kind)) for surface, kind in raw.get("entities") or []]
    for _, kind in entities:
        if kind not in ENTITY_TYPES:
            raise SourceError(f"unknown entity type {kind!r}")
    if entities:
        metadata["entities"] = locate(raw["text"], entities)
    return _document(raw, f"ticket-{lang}-{number:04d}", lang, metadata) | {"labels": labels}


def article(raw: Raw, lang: str, number: int) -> Raw:
    """A source line as a document without labels: it is evidence, not an example."""
    _only(raw, ARTICLE_FIELDS)
    if raw["topic"] not in (*LABELS, "general"):
        raise SourceError(f"unknown topic {raw['topic']!r}")
    metadata = {"source": "sample", "kind": "article", "topic": raw["topic"]}
    return _document(raw, f"article-{lang}-{number:03d}", lang, metadata)


def _only(raw: Raw, fields: set[str]) -> None:
    if unknown := sorted(raw.keys() - fields):
        raise SourceError(f"unknown field {unknown[0]!r}")


def _document(raw: Raw, doc_id: str, lang: str, metadata: Raw) -> Raw:
    titled = {"title": raw["title"]} if raw.get("title") else {}
    return {"id": doc_id, **titled, "text": raw["text"], "lang": lang, "metadata": metadata}


def collect(source: Path) -> tuple[list[Raw], list[Raw]]:
    """All documents of the source folder: (shipped, held out), each checked by `parse_document`."""
    shipped: list[Raw] = []
    heldout: list[Raw] = []
    numbers: Counter[str] = Counter()
    for path in sorted(source.glob("tickets_*.jsonl")) + sorted(source.glob("articles_*.jsonl")):
        kind, lang = path.stem.split("_")[:2]
        make = ticket if kind == "tickets" else article
        for line, raw in _lines(path):
            numbers[f"{kind}-{lang}"] += 1
            try:
                document = make(raw, lang, numbers[f"{kind}-{lang}"])
                parse_document(document)
            except (ValueError, KeyError) as error:
                raise SourceError(f"{path.name}, line {line}: {error}") from error
            (heldout if raw.get("heldout") else shipped).append(document)
    return shipped, heldout


def _lines(path: Path) -> Iterator[tuple[int, Raw]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise SourceError(f"{path.name}, line {number}: {error}") from error


def problems(shipped: list[Raw], heldout: list[Raw]) -> list[str]:
    """Equal texts anywhere, and near-duplicates between shipped and held out."""
    faults: list[str] = []
    first: dict[str, str] = {}
    for document in shipped + heldout:
        key = normalise(document["text"])
        if key in first:
            faults.append(f"{document['id']} repeats {first[key]}")
        first.setdefault(key, document["id"])
    faults.extend(
        f"{held['id']} is held out and nearly repeats {document['id']}"
        for held in heldout
        for document in shipped
        if held["lang"] == document["lang"] and near_duplicate(held["text"], document["text"])
    )
    return faults


def summary(shipped: list[Raw], heldout: list[Raw]) -> list[str]:
    """Counts by kind, language and label, one line each."""
    counts: Counter[str] = Counter()
    for name, part in (("shipped", shipped), ("held out", heldout)):
        for document in part:
            key = f"{name}: {document['metadata']['kind']} {document['lang']}"
            counts[key] += 1
            for field, value in document.get("labels", {}).items():
                counts[f"{key} {field}={value}"] += 1
            for field in document["metadata"].keys() & {"entities", "hard"}:
                counts[f"{key} with {field}"] += 1
    return [f"{key}: {count}" for key, count in sorted(counts.items())]


def write(path: Path, documents: Iterable[Raw]) -> None:
    """One document a line, UTF-8, byte for byte the same for the same source."""
    text = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    """Build both files in place; 1 and nothing written when a check fails."""
    shipped, heldout = collect(FOLDER / "source")
    faults = problems(shipped, heldout)
    if faults:
        sys.stderr.write("\n".join(faults) + "\n")
        return 1
    write(FOLDER / "helpdesk.jsonl", shipped)
    write(FOLDER / "heldout.jsonl", heldout)
    sys.stdout.write("\n".join(summary(shipped, heldout)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
