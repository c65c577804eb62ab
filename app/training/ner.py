"""Training the head for named entities: on an uploaded set, or on documents that carry entities.

What is found for a sentence are other documents with ``metadata.entities``, as when it is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.records.datasets import Dataset
from app.records.feedback import FeedbackItem
from app.training.context import Training, TrainingTask, check_rows, enough
from app.training.frozen_rows import Query, Retrieval, SetInfo, freeze_rows, load_rows
from index_data.documents import content_id, entities_of
from index_data.entities import COLUMN, spans, within
from index_data.search.evidence import entity_evidence

if TYPE_CHECKING:
    from index_data.search.searcher import Hit, Searcher
    from model.training.ner import NerTraining

METHOD = "bm25"  # as when it is served: what finds names is the names


def check_index(searcher: Searcher, field: str) -> None:
    """Refuse an index without a marked entity. Raises ``validation``."""
    if not searcher.column_values(COLUMN):
        raise invalid("#/dataset", "no document in the index has metadata.entities: name a dataset")


def check_dataset(dataset: Dataset) -> None:
    """Refuse too few rows, or rows without any entity. Raises ``validation``."""
    check_rows(dataset)
    if not dataset.labels:
        raise invalid("#/dataset", "none of its rows has an entity")


def freeze(training: Training, searcher: Searcher) -> None:
    """Find labelled sentences for every row. Raises :class:`JobRefused` on too few rows."""
    from model.ner.rows import TagTrainConfig

    given = training.dataset_rows()
    queries = [*(_marked(searcher) if given is None else map(_uploaded, given))]
    enough(queries, "texts have entities" if given is None else "rows are in the set")
    types = Counter(kind for query in queries for _, _, kind in query.row["entities"])
    freeze_rows(
        Retrieval(
            searcher, TagTrainConfig(**training.options()).k, METHOD, filter=entity_evidence()
        ),
        training.work,
        queries,
        training.reporter,
        field=training.field,
        labels=dict(types.most_common()),
        about=_entities_in,
        feedback_items=[_feedback(one) for one in training.feedback("entities")],
    )


def _uploaded(raw: dict[str, Any]) -> Query:
    text = raw["text"]
    entities = [(one["start"], one["end"], one["type"]) for one in raw["entities"]]
    row = {"text": text, "entities": entities}
    return Query(raw.get("id") or content_id(text), text, row)


def _marked(searcher: Searcher) -> Iterator[Query]:
    """The documents that somebody marked; an empty list says that there is no entity."""
    for document in searcher.documents():
        entities = entities_of(document)
        if entities is not None:
            row = {"text": document.text, "entities": entities}
            yield Query(document.id, document.text, row, document.lang)


def _feedback(one: FeedbackItem) -> Query:
    """What a person marked in a text, to measure on."""
    return Query(one.id, one.text, {"text": one.text, "entities": spans(one.entities or [])})


def _entities_in(hit: Hit) -> dict[str, Any]:
    return {"entities": within(entities_of(hit.document) or (), hit.start, hit.end)}


def head_training(training: Training, _: SetInfo) -> NerTraining:
    """The frozen rows, and how a head is trained on them."""
    from model.ner.evidence import Entities, TagHit
    from model.ner.rows import TagRow, TagTrainConfig
    from model.training.ner import NerTraining

    def entities(raw: dict[str, Any]) -> Entities:
        return tuple((start, end, kind) for start, end, kind in raw["entities"])

    def passage(raw: dict[str, Any]) -> tuple[str, Entities]:
        return raw["text"], entities(raw)

    def row(raw: dict[str, Any], scored: list[tuple[tuple[str, Entities], float]]) -> TagRow:
        hits = [TagHit(text, marks, score) for (text, marks), score in scored]
        return TagRow(raw["id"], raw["text"], entities(raw), hits)

    rows, feedback = load_rows(training.work, passage, row)
    config = TagTrainConfig(field=training.field, **training.options())
    return NerTraining(rows, config, training.encoder, feedback)


NER: Final = TrainingTask(
    head="ner",
    family="ner",
    check_index=check_index,
    check_dataset=check_dataset,
    freeze=freeze,
    head_training=head_training,
)
