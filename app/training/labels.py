"""Training the head of a label field: on the labelled documents, or on an uploaded set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.records.datasets import Dataset
from app.records.feedback import feedback_items
from app.training.context import Training
from index_data.documents import Document, content_id

if TYPE_CHECKING:
    from index_data.search.searcher import Searcher

SENTIMENT_LAYERS: Final = 6
"""Adapted from the top: what sentiment hangs on lies further down than topics (docs/decisions/)."""


def check_index(searcher: Searcher, field: str) -> None:
    """Refuse a field with fewer than two labels in the index. Raises ``validation``."""
    labels = searcher.field_labels(field)
    if not labels:
        raise invalid("#/field", "no document in the index has a label in this field")
    if len(labels) < 2:
        raise invalid("#/field", "all labelled documents have the same label: 2 are needed")


def check_dataset(found: Dataset) -> None:
    """Refuse a set with fewer than two labels. Raises ``validation``."""
    if len(found.labels) < 2:
        raise invalid("#/dataset", "all its rows have the same label: 2 are needed")


def freeze(training: Training, searcher: Searcher) -> None:
    """Retrieve for every labelled text. Raises :class:`JobRefused` on fewer than two labels."""
    from app.training import label_rows as training_set
    from model.config import TrainConfig

    rows = training.dataset_rows()
    training_set.freeze(
        searcher,
        training.work,
        field=training.field,
        k=TrainConfig(**training.options()).k,
        encode=training.encoder.encode,
        fits=searcher.has_vectors,
        reporter=training.reporter,
        learned=None if rows is None else documents(rows, training.field),
        feedback_items=recorded_feedback(training),
    )


def train(training: Training) -> dict[str, Any]:
    """Train on the frozen rows; the report, and what the rows were made from."""
    from app.training import label_rows as training_set
    from model.config import TrainConfig
    from model.provenance import digests
    from model.training.labels import train_head
    from model.training.multilabel import train_multilabel

    info, rows = training_set.load(training.work)
    task, given = training.params["task"], training.options()
    if task == "sentiment":
        given["layers"] = SENTIMENT_LAYERS
    learn = train_multilabel if info.multilabel else train_head
    report = learn(
        rows,
        TrainConfig(field=training.field, task=task, **given),
        training.encoder,
        training.out,
        base=training.base,
        feedback_items=training_set.load_feedback(training.work),
        documents=digests(training_set.documents(training.work)),
        progress=training.progress,
        cancelled=training.reporter.cancelled,
    ).to_json()
    if info.lists:
        left = f"{info.lists} documents have a list of labels in this field and were left out"
        report["warnings"] = [*report["warnings"], left]
    return {"report": report, "data": asdict(info)}


def documents(rows: list[dict[str, Any]], field: str) -> Iterator[Document]:
    """The rows of an uploaded set; one that says only ``label`` is of whatever is asked for."""
    for row in rows:
        labels = row["labels"]
        if [*labels] == ["label"]:
            labels = {field: labels["label"]}
        yield Document(row.get("id") or content_id(row["text"]), row["text"], labels=labels)


def recorded_feedback(training: Training) -> list[Document]:
    """What people said is right in this field, as labelled texts."""
    labelled = [(one, str(one.label)) for one in training.said(feedback_items)]
    return [Document(one.id, one.text, labels={one.field: label}) for one, label in labelled]
