"""Training the head of a label field: on the labelled documents, or on an uploaded set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.records.datasets import Dataset
from app.training.context import Training, TrainingTask
from index_data.documents import Document, content_id

if TYPE_CHECKING:
    from app.training.frozen_rows import SetInfo
    from index_data.search.searcher import Searcher
    from model.training.labels import LabelTraining

SENTIMENT_LAYERS: Final = 6
"""Adapted from the top: what sentiment hangs on lies further down than topics (docs/decisions/)."""


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
    from app.training import label_rows
    from model.config import TrainConfig

    rows = training.dataset_rows()
    label_rows.freeze(
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
    from app.training import label_rows
    from model.config import TrainConfig
    from model.training.labels import LabelTraining
    from model.training.multilabel import MultilabelTraining

    _, rows, feedback = label_rows.load(training.work)
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
