"""The job that measures a model on the index's own labelled documents.

The rows that the head was not trained on, each without itself and its near-duplicates among the
hits: with retrieval on, with it off (same weights), and by the neighbours alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.jobs.inputs import child_part, load_encoder, opened, reading
from app.jobs.job import Job, JobKind
from app.records.encoders import EncoderChoice
from app.records.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from app.training import labels as label_training
from app.worker import Reporter

if TYPE_CHECKING:
    from app.training.frozen_rows import SetInfo
    from index_data.documents import Document
    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder
    from model.labels.prediction import Prediction
    from model.reader import Reader
    from model.training.split import Row

TYPE: Final = "evaluate"
ANSWERED_AT_ONCE: Final = 32


def kind(settings: Settings, registry: Registry, encoders: EncoderChoice) -> JobKind:
    """The evaluation job of a server: of the checkpoint that serves when it starts."""

    def prepare(job: Job) -> dict[str, Any]:
        version = registry.active
        folder = None if version == NO_CHECKPOINT else str(registry.find(version))
        return {**reading(settings, encoders.source), "_checkpoint": folder, "_version": version}

    return JobKind("app.jobs.evaluate:run", prepare, lambda job, result: result)


@child_part()
def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Retrieve, answer, count (the child's part)."""
    from model.reader import Reader

    name = params["field"]
    encoder = load_encoder(params, reporter)
    checkpoint = None if params["_checkpoint"] is None else Path(params["_checkpoint"])
    trained, neighbours = Reader.load(checkpoint, encoder), Reader.load(None, encoder)
    k = params.get("k") or max(trained.wanted(name), neighbours.wanted(name))
    with opened(params, encoder) as searcher:
        info, rows = retrieved_rows(searcher, encoder, name, k, reporter)
    measured, which = held_out_rows(rows, trained, name, held_out=params["held_out"])
    measured = measured[: params.get("limit")]
    conditions: list[tuple[str, Callable[[Row], Row], Reader]] = [
        ("neighbours", lambda r: r, neighbours)
    ]
    if name in trained.heads:
        conditions = [("on", lambda r: r, trained), ("off", _closed_book, trained), *conditions]
    metrics, abstention = {}, {}
    for condition, change, reader in conditions:
        changed = [change(row) for row in measured]
        stage = f"measure {condition}"
        predictions = predict_rows(reader, changed, name, sorted(info.labels), reporter, stage)
        metrics[condition], abstention[condition] = _measure(
            changed, predictions, multilabel=info.multilabel
        )
    return {
        "version": params["_version"],
        "field": name,
        "rows": len(measured),
        "evaluated_on": which,
        "metrics": metrics,
        "abstention": abstention,
        "data": {"method": info.method, "k": k, "dropped": info.dropped, "sequence": info.sequence},
    }


def retrieved_rows(
    searcher: Searcher,
    encoder: Encoder,
    field: str,
    k: int,
    reporter: Reporter,
    documents: Iterator[Document] | None = None,
) -> tuple[SetInfo, list[Row]]:
    """The labelled documents of an index (or some of them), each with its hits."""
    with tempfile.TemporaryDirectory(prefix="footnote-evaluate-") as folder:
        work = Path(folder)
        label_training.freeze_documents(
            searcher, work, field, k, encoder.encode, reporter, documents
        )
        info, rows, _ = label_training.load(work)
    return info, rows


def held_out_rows(
    rows: list[Row], reader: Reader, name: str, *, held_out: bool = True
) -> tuple[list[Row], str]:
    """The rows that the head held out, by the rule that it was trained with; else all."""
    from model.config import TrainConfig
    from model.training.split import plan_rows

    head = reader.heads.get(name)
    if head is None or not held_out:
        return rows, "all"
    known = {field.name for field in fields(TrainConfig)}
    given = {k: v for k, v in head.report.get("config", {}).items() if k in known}
    held = plan_rows(rows, TrainConfig(**given)).held
    return ([rows[i] for i in held], "held-out") if held else (rows, "all")


def _closed_book(row: Row) -> Row:
    return replace(row, hits=[])


def predict_rows(
    reader: Reader,
    rows: Sequence[Row],
    field: str,
    labels: Sequence[str],
    reporter: Reporter,
    stage: str,
) -> list[Prediction]:
    """The answer to each row, by the code that serves. ``labels``: all of the field."""
    predictions: list[Prediction] = []
    for start in range(0, len(rows), ANSWERED_AT_ONCE):
        reporter.progress(start, len(rows), stage)
        part = rows[start : start + ANSWERED_AT_ONCE]
        states = reader.read([reader.tokenize(row.text) for row in part], [field] * len(part))
        predictions += reader.predict(states, [r.hits for r in part], field, index_labels=labels)
    return predictions


def _measure(
    rows: Sequence[Row], predictions: Sequence[Prediction], *, multilabel: bool
) -> tuple[dict[str, float], dict[str, list[dict[str, float]]]]:
    """Accuracy, macro F1 and calibration error in one condition.

    Beside them, by confidence and by support, what a threshold would answer and how well.
    ``multilabel``: answers are sets of labels; a row is right when its whole set is; a confidence
    is of the best label alone.
    """
    from model.metrics import accuracy, calibration_error, macro_f1, risk_coverage, set_scores

    labels = [str(one.label) for one in predictions]
    confidence = [one.confidence for one in predictions]
    if multilabel:
        sets = [one.answered for one in predictions]
        right = [set(row.names) == set(given) for row, given in zip(rows, sets, strict=True)]
        best = [label in row.names for row, label in zip(rows, labels, strict=True)]
        metrics = set_scores([row.names for row in rows], sets)
        metrics["calibration_error"] = calibration_error(confidence, best)
    else:
        truth = [str(row.label) for row in rows]
        right = [t == s for t, s in zip(truth, labels, strict=True)]
        metrics = {
            "accuracy": accuracy(truth, labels),
            "macro_f1": macro_f1(truth, labels),
            "calibration_error": calibration_error(confidence, right),
            "rows": float(len(rows)),
        }
    thresholds = {"confidence": confidence, "support": [one.support for one in predictions]}
    return metrics, {by: risk_coverage(scores, right) for by, scores in thresholds.items()}
