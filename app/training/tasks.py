"""The tasks that heads are trained for: one table, read by the server and by the job.

The modules behind it import nothing heavy by themselves, so that the port opens before torch is
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from app.training.context import Training, TrainingTask
from app.training.frozen_rows import documents, read_info
from app.training.labels import LABELS
from app.training.ner import NER
from app.training.qa import QA

TASKS: Final[Mapping[str, TrainingTask]] = {
    "classification": LABELS,
    "sentiment": replace(LABELS, head="sentiment"),
    "qa": QA,
    "ner": NER,
}
TAKEN: Final = frozenset(task.head for task in TASKS.values() if not task.fields)
"""Heads that no label field may be named like."""


def train(training: Training) -> dict[str, Any]:
    """Train on the frozen rows: ``report``, and ``data``, what the rows were made from."""
    from model.provenance import digests
    from model.training.driver import train_head

    info = read_info(training.work)
    report = train_head(
        TASKS[training.params["task"]].head_training(training, info),
        training.out,
        base=training.base,
        documents=digests(documents(training.work)),
        progress=training.progress,
        cancelled=training.reporter.cancelled,
    ).to_json()
    if info.lists:
        left = f"{info.lists} documents have a list of labels in this field and were left out"
        report["warnings"] = [*report["warnings"], left]
    if info.left_out:
        left = f"{info.left_out} questions without an answer were left out"
        report["warnings"] = [*report["warnings"], left]
    return {"report": report, "data": asdict(info)}
