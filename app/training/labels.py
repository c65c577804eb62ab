"""Training the head of a label field: on the labelled documents, or on an uploaded set.

Passages are written with their "label" and their vectors; "label" of a row is a list where the
labels are independent (`app.training.frozen_rows`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.records.datasets import Dataset
from app.training.context import Training, TrainingTask
from app.training.frozen_rows import (
    Encode,
    Query,
    Retrieval,
    SetInfo,
    freeze_rows,
    load_rows,
    read_info,
)
from app.worker import JobRefused, Reporter
from index_data.documents import Document, content_id
from index_data.search.evidence import label_evidence

if TYPE_CHECKING:
    from index_data.search.searcher import Hit, Searcher
    from model.training.labels import LabelTraining
    from model.training.split import Row

MULTILABEL_FROM: Final = 0.1  # share of lists that makes the labels of a field independent
SENTIMENT_LAYERS: Final = 6
"""Adapted from the top: what sentiment hangs on lies further down than topics (docs/decisions/)."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The documents with a label of a field; ``lists``: how many with a list were left out."""

    documents: list[Document]
    lists: int
    multilabel: bool


def labelled(documents: Iterator[Document], field: str) -> Labelled:
    """The documents to learn a field from.

    Where at least a tenth of them carry lists, its labels are independent, and a single label
    is a list of one. Fewer are taken for mistakes and left out.
    """
    rows = [document for document in documents if document.labels.get(field) is not None]
    single = [document for document in rows if isinstance(document.labels[field], str)]
    lists = len(rows) - len(single)
    if lists and lists >= MULTILABEL_FROM * len(rows):
        return Labelled(rows, 0, multilabel=True)
    return Labelled(single, lists, multilabel=False)


def names_of(document: Document, field: str) -> list[str]:
    """A document's labels of a field, each once, however many."""
    value = document.labels[field]
    return [value] if isinstance(value, str) else [*dict.fromkeys(value)]


def check_labels(field: str, counts: Counter[str]) -> None:
    """Refuse what no head can be trained on. Raises :class:`JobRefused`."""
    if not counts:
        raise JobRefused(f"No document has a label for the field {field!r}.")
    if len(counts) < 2:
        raise JobRefused(
            f"All {counts.total()} labelled documents have the same label for the field "
            f"{field!r}: at least two labels are needed."
        )


def freeze_documents(
    searcher: Searcher,
    folder: Path,
    field: str,
    k: int,
    encode: Encode,
    reporter: Reporter,
    documents: Iterator[Document] | None = None,
    feedback_items: Sequence[Document] = (),
) -> SetInfo:
    """Retrieve once for each labelled document and write the set.

    ``documents``: what is learned from; ``None``: the documents of the index themselves.
    ``feedback_items``: labelled texts to measure on too, without those that a row has, or nearly
    has. A row never finds itself or a near-duplicate. Raises :class:`JobRefused` on fewer than two
    labels.
    """
    source = labelled(documents or searcher.documents(), field)
    counts = Counter(name for document in source.documents for name in names_of(document, field))
    check_labels(field, counts)

    def query(document: Document) -> Query:
        names = names_of(document, field)
        label = names if source.multilabel else document.labels[field]
        row = {"text": document.text, "label": label}
        return Query(document.id, document.text, row, document.lang)

    def about(hit: Hit) -> dict[str, Any]:
        return {"label": hit.document.labels.get(field)}

    return freeze_rows(
        Retrieval.by_default(searcher, k, encode, filter=label_evidence(field)),
        folder,
        [query(document) for document in source.documents],
        reporter,
        field=field,
        labels=dict(counts.most_common()),
        about=about,
        vectors=True,
        feedback_items=[query(one) for one in feedback_items],
        lists=source.lists,
        multilabel=source.multilabel,
    )


def load(folder: Path) -> tuple[SetInfo, list[Row], list[Row]]:
    """A frozen set, whole: what it was made from, its rows, and recorded feedback to measure on.

    Raises ``FileNotFoundError`` when the folder holds none.
    """
    from model.labels.memory import Retrieved
    from model.training.split import Row

    def row(raw: dict[str, Any], hits: list[tuple[dict[str, Any], float]]) -> Row:
        retrieved = [
            Retrieved(p["title"], p["text"], p["label"], score, p["vector"], doc_id=p["doc_id"])
            for p, score in hits
        ]
        sources = [passage["doc_id"] for passage, _ in hits]
        return Row(raw["id"], raw["text"], raw["label"], retrieved, sources)

    return read_info(folder), *load_rows(folder, lambda passage: passage, row)


def check_index(searcher: Searcher, field: str) -> None:
    """Refuse a field with fewer than two labels in the index. Raises ``validation``."""
    labels = searcher.field_labels(field)
    if not labels:
        raise invalid("#/field", "no document in the index has a label in this field")
    if len(labels) < 2:
        raise invalid("#/field", "all labelled documents have the same label: 2 are needed")


def check_dataset(dataset: Dataset) -> None:
    """Refuse a set with fewer than two labels. Raises ``validation``."""
    if len(dataset.labels) < 2:
        raise invalid("#/dataset", "all its rows have the same label: 2 are needed")


def freeze(training: Training, searcher: Searcher) -> None:
    """Retrieve for every labelled text. Raises :class:`JobRefused` on fewer than two labels."""
    from model.config import TrainConfig

    rows = training.dataset_rows()
    freeze_documents(
        searcher,
        training.work,
        training.field,
        TrainConfig(**training.options()).k,
        training.encoder.encode,
        training.reporter,
        None if rows is None else documents_of(rows, training.field),
        feedback_items=[
            Document(one.id, one.text, labels={one.field: str(one.label)})
            for one in training.feedback("label")
        ],
    )


def head_training(training: Training, info: SetInfo) -> LabelTraining:
    """The frozen rows, and how a head is trained on them."""
    from model.config import TrainConfig
    from model.training.labels import LabelTraining
    from model.training.multilabel import MultilabelTraining

    _, rows, feedback = load(training.work)
    task, given = training.params["task"], training.options()
    if task == "sentiment":
        given["layers"] = SENTIMENT_LAYERS
    config = TrainConfig(field=training.field, task=task, **given)
    kind = MultilabelTraining if info.multilabel else LabelTraining
    return kind(rows, config, training.encoder, feedback)


def documents_of(rows: list[dict[str, Any]], field: str) -> Iterator[Document]:
    """The rows of an uploaded set; one that says only ``label`` is of whatever field is asked."""
    for row in rows:
        labels = row["labels"]
        if [*labels] == ["label"]:
            labels = {field: labels["label"]}
        yield Document(row.get("id") or content_id(row["text"]), row["text"], labels=labels)


LABELS: Final = TrainingTask(
    head="label",
    family="classification",
    check_index=check_index,
    check_dataset=check_dataset,
    freeze=freeze,
    head_training=head_training,
    fields=True,
)
