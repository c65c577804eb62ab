"""The tasks that heads are trained for: one table, read by the server and by the job.

The modules behind it import nothing heavy by themselves, so that the port opens before torch is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.records.datasets import Dataset
from app.training import labels as label_training
from app.training import ner as ner_training
from app.training import qa as qa_training
from app.training.context import Training

if TYPE_CHECKING:
    from index_data.search.searcher import Searcher


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """What differs by task. ``head``: the head's name; with ``fields`` only where the request
    names no label field. ``family``: the task that a dataset must be for.

    The checks raise ``validation`` before a job is queued: ``check_index`` on what the index has
    to learn from, ``check_dataset`` on an uploaded set. ``freeze`` writes the rows with their hits
    into the training's folder, ``train`` makes the checkpoint and gives ``report`` and ``data``.
    """

    head: str
    family: str
    check_index: Callable[[Searcher, str], None]
    check_dataset: Callable[[Dataset], None]
    freeze: Callable[[Training, Searcher], None]
    train: Callable[[Training], dict[str, Any]]
    fields: bool = False


LABELS: Final = TrainingTask(
    head="label",
    family="classification",
    check_index=label_training.check_index,
    check_dataset=label_training.check_dataset,
    freeze=label_training.freeze,
    train=label_training.train,
    fields=True,
)
TASKS: Final[Mapping[str, TrainingTask]] = {
    "classification": LABELS,
    "sentiment": replace(LABELS, head="sentiment"),
    "qa": TrainingTask(
        head="qa",
        family="qa",
        check_index=qa_training.check_index,
        check_dataset=qa_training.check_dataset,
        freeze=qa_training.freeze,
        train=qa_training.train,
    ),
    "ner": TrainingTask(
        head="ner",
        family="ner",
        check_index=ner_training.check_index,
        check_dataset=ner_training.check_dataset,
        freeze=ner_training.freeze,
        train=ner_training.train,
    ),
}
TAKEN: Final = frozenset(task.head for task in TASKS.values() if not task.fields)
"""Heads that no label field may be named like."""
