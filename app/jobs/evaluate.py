"""The job that measures a model on the index's own labelled documents.

The rows that the head was not trained on, each without itself and its near-duplicates among the
hits: with retrieval on, with it off (same weights), and by the neighbours alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.jobs.job import Job, JobKind
from app.jobs.train import load_encoder, opened, reading
from app.records.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from app.worker import JobRefused, Reporter

if TYPE_CHECKING:
    from model.reader import Reader
    from model.training.split import Row

TYPE: Final = "evaluate"
ANSWERED_AT_ONCE: Final = 32


def kind(settings: Settings, registry: Registry) -> JobKind:
    """The evaluation job of a server: of the checkpoint that serves when it starts."""

    def prepare(job: Job) -> dict[str, Any]:
        version = registry.active
        folder = None if version == NO_CHECKPOINT else str(registry.find(version))
        return {**reading(settings), "_checkpoint": folder, "_version": version}

    return JobKind("app.jobs.evaluate:run", prepare, lambda job, result: result)


def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Retrieve, answer, count (the child's part)."""
    import torch

    from app.training import label_rows as training_set
    from model.folders import CheckpointRefused
    from model.reader import Reader

    torch.set_num_threads(1)
    name = params["field"]
    encoder = load_encoder(params, reporter)
    checkpoint = None if params["_checkpoint"] is None else Path(params["_checkpoint"])
    try:
        trained = Reader.load(checkpoint, encoder)
    except CheckpointRefused as refused:
        raise JobRefused(str(refused)) from refused
    neighbours = Reader.load(None, encoder)
    k = params.get("k") or max(trained.wanted(name), neighbours.wanted(name))
    work = Path(tempfile.mkdtemp(prefix="footnote-evaluate-"))
    try:
        with opened(params, encoder) as searcher:
            training_set.freeze(
                searcher,
                work,
                field=name,
                k=k,
                encode=encoder.encode,
                fits=searcher.has_vectors,
                reporter=reporter,
            )
        info, rows, _ = training_set.load(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    measured, which = held_out_rows(rows, trained, name, held_out=params["held_out"])
    measured = measured[: params.get("limit")]
    labels = sorted(info.labels)
    conditions: list[tuple[str, Callable[[Row], Row], Reader]] = [
        ("neighbours", lambda r: r, neighbours)
    ]
    if name in trained.heads:
        conditions = [("on", lambda r: r, trained), ("off", _closed_book, trained), *conditions]
    metrics, abstention = {}, {}
    for condition, change, reader in conditions:
        changed = [change(row) for row in measured]
        metrics[condition], abstention[condition] = _measure(
            reader, changed, name, labels, reporter, condition, multilabel=info.multilabel
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


def _measure(
    reader: Reader,
    rows: Sequence[Row],
    name: str,
    labels: Sequence[str],
    reporter: Reporter,
    condition: str,
    *,
    multilabel: bool,
) -> tuple[dict[str, float], dict[str, list[dict[str, float]]]]:
    """Accuracy, macro F1 and calibration error in one condition, by the code that serves.

    Beside them, by confidence and by support, what a threshold would answer and how well.
    ``multilabel``: answers are sets of labels; a row is right when its whole set is; a confidence
    is of the best label alone.
    """
    from model.metrics import accuracy, calibration_error, macro_f1, risk_coverage, set_scores

    said, sure, support, sets = [], [], [], []
    for start in range(0, len(rows), ANSWERED_AT_ONCE):
        reporter.progress(start, len(rows), f"measure {condition}")
        part = rows[start : start + ANSWERED_AT_ONCE]
        tokens = [reader.tokenize(row.text) for row in part]
        states = reader.read(tokens, [name] * len(part))
        answers = reader.predict(states, [r.hits for r in part], name, index_labels=labels)
        said += [str(answer.label) for answer in answers]
        sets += [answer.answered for answer in answers]
        sure += [answer.confidence for answer in answers]
        support += [answer.support for answer in answers]
    if multilabel:
        right = [set(row.names) == set(given) for row, given in zip(rows, sets, strict=True)]
        best = [label in row.names for row, label in zip(rows, said, strict=True)]
        metrics = set_scores([row.names for row in rows], sets)
        metrics["calibration_error"] = calibration_error(sure, best)
    else:
        truth = [str(row.label) for row in rows]
        right = [t == s for t, s in zip(truth, said, strict=True)]
        metrics = {
            "accuracy": accuracy(truth, said),
            "macro_f1": macro_f1(truth, said),
            "calibration_error": calibration_error(sure, right),
            "rows": float(len(rows)),
        }
    thresholds = {"confidence": sure, "support": support}
    return metrics, {by: risk_coverage(scores, right) for by, scores in thresholds.items()}
