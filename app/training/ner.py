"""Training the head for named entities: on an uploaded set, or on documents that carry entities.

What is found for a sentence are other documents with ``metadata.entities``, as when it is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from app.problems import invalid
from app.records.datasets import Dataset
from app.records.feedback import FeedbackItem, marked
from app.training.context import Training, check_rows, enough
from app.training.frozen_rows import (
    PASSAGES,
    ROWS,
    Query,
    Retrieval,
    documents,
    feedback_rows,
    freeze_rows,
    read_info,
)
from app.training.frozen_rows import lines as objects
from index_data.documents import Document, content_id, near_duplicate
from index_data.entities import COLUMN, entities_of, spans, within
from index_data.filters import MARKED

if TYPE_CHECKING:
    from index_data.search.searcher import Hit, Searcher
    from model.ner.rows import TagRow

METHOD = "bm25"  # as when it is served: what finds names is the names


def check_index(searcher: Searcher, field: str) -> None:
    """Refuse an index without a marked entity. Raises ``validation``."""
    if not searcher.column_values(COLUMN):
        raise invalid("#/dataset", "no document in the index has metadata.entities: name a dataset")


def check_dataset(found: Dataset) -> None:
    """Refuse too few rows, or rows without any entity. Raises ``validation``."""
    check_rows(found)
    if not found.labels:
        raise invalid("#/dataset", "none of its rows has an entity")


def freeze(training: Training, searcher: Searcher) -> None:
    """Find labelled sentences for every row. Raises :class:`JobRefused` on too few rows."""
    from model.ner.rows import TagTrainConfig

    given = training.dataset_rows()
    queries = [*(_marked(searcher) if given is None else map(_uploaded, given))]
    enough(queries, "texts have entities" if given is None else "rows are in the set")
    types = Counter(kind for query in queries for _, _, kind in query.row["entities"])
    freeze_rows(
        Retrieval(searcher, TagTrainConfig(**training.options()).k, METHOD, filter=MARKED),
        training.work,
        queries,
        training.reporter,
        field=training.field,
        labels=dict(types.most_common()),
        about=_entities_in,
        feedback_items=[_said(one) for one in training.said(marked)],
    )


def _uploaded(row: dict[str, Any]) -> Query:
    entities = [(one["start"], one["end"], one["type"]) for one in row["entities"]]
    kept = {"text": row["text"], "entities": entities}
    name = row.get("id") or content_id(row["text"])
    return Query(name, row["text"], kept, partial(_near, row["text"]))


def _marked(searcher: Searcher) -> Iterator[Query]:
    """The documents that somebody marked; an empty list says that there is no entity."""
    for document in searcher.documents():
        entities = entities_of(document)
        if entities is not None:
            kept = {"text": document.text, "entities": entities}
            same = partial(_near, document.text)
            yield Query(document.id, document.text, kept, same, document.lang)


def _said(one: FeedbackItem) -> Query:
    """What a person said of a text, to measure on."""
    kept = {"text": one.text, "entities": spans(one.entities or [])}
    return Query(one.id, one.text, kept, partial(_near, one.text))


def _near(text: str, other: Document) -> bool:
    return near_duplicate(text, other.text)


def _entities_in(hit: Hit) -> dict[str, Any]:
    return {"entities": within(entities_of(hit.document) or (), hit.start, hit.end)}


def train(training: Training) -> dict[str, Any]:
    """Train on the frozen rows; the report, and what the rows were made from."""
    from model.ner.rows import TagTrainConfig
    from model.provenance import digests
    from model.training.ner import train_tagger

    rows, feedback_items = load(training)
    report = train_tagger(
        rows,
        TagTrainConfig(field=training.field, **training.options()),
        training.encoder,
        training.out,
        base=training.base,
        feedback_items=feedback_items,
        documents=digests(documents(training.work)),
        progress=training.progress,
        cancelled=training.reporter.cancelled,
    )
    return {"report": report.to_json(), "data": asdict(read_info(training.work))}


def load(training: Training) -> tuple[list[TagRow], list[TagRow]]:
    """The frozen rows, and the recorded feedback."""
    from model.ner.evidence import TagHit
    from model.ner.rows import TagRow

    found = [
        (passage["text"], tuple((a, b, kind) for a, b, kind in passage["entities"]))
        for passage in objects(training.work / PASSAGES)
    ]

    def row(raw: dict[str, Any]) -> TagRow:
        entities = tuple((a, b, kind) for a, b, kind in raw["entities"])
        hits = [TagHit(found[number][0], found[number][1], score) for number, score in raw["hits"]]
        return TagRow(raw["id"], raw["text"], entities, hits)

    rows = [row(raw) for raw in objects(training.work / ROWS)]
    return rows, [row(raw) for raw in feedback_rows(training.work)]
