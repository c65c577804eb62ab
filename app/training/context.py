"""A training job as every task sees it, and what a task says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from app.problems import invalid
from app.records.datasets import Dataset, load_rows
from app.records.feedback import FeedbackItem, feedback_items
from app.worker import JobRefused, Reporter
from index_data.storage.store import ReadOnlyStore

if TYPE_CHECKING:
    from app.training.frozen_rows import SetInfo
    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder
    from model.training.driver import HeadTraining

MAX_FEEDBACK: Final = 500  # recorded feedback that a promotion is decided by
OPTIONS: Final = ("optimizer", "lr", "epochs", "batch_size", "seed", "holdout", "k")
LEAST_ROWS: Final = 8  # questions or sentences: fewer teach nothing and measure nothing


@dataclass(frozen=True, slots=True)
class Training:
    """The child's part of a training job. ``work``: where the rows are frozen."""

    params: dict[str, Any]
    encoder: Encoder
    base: Path | None
    work: Path
    out: Path
    reporter: Reporter

    @property
    def field(self) -> str:
        """The head's name."""
        return str(self.params["field"])

    def options(self) -> dict[str, Any]:
        """Those that the request names; the rest is for the configuration to choose."""
        return {name: self.params[name] for name in OPTIONS if self.params.get(name) is not None}

    def progress(self, step: int, total: int, loss: float | None, _: float | None) -> None:
        """What a training function reports to."""
        self.reporter.progress(step, total, "train", loss)

    def dataset_rows(self) -> list[dict[str, Any]] | None:
        """The rows of the uploaded set that is to be learned; ``None``: the index's own.

        Raises ``DatasetBroken`` when it is gone or is not what was uploaded.
        """
        folder = self.params.get("_dataset")
        return None if folder is None else load_rows(Path(folder))

    def store(self) -> closing[ReadOnlyStore]:
        """The document store, for reading only."""
        return closing(ReadOnlyStore(Path(self.params["_store"])))

    def feedback(self, given: Literal["label", "entities", "answer"]) -> list[FeedbackItem]:
        """Recorded feedback on the head's own field: the newest so many."""
        with self.store() as store:
            return feedback_items(store, self.field, given)[-MAX_FEEDBACK:]


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """What differs by task; the table is `app.training.tasks`.

    ``head``: the head's name; with ``fields`` only where the request names no label field.
    ``family``: the task that a dataset must be for. The checks raise ``validation`` before a job is
    queued: ``check_index`` on what the index has to learn from, ``check_dataset`` on an uploaded
    set. ``freeze`` writes the rows with their hits into the training's folder, ``head_training``
    reads them back as what `model.training.driver` trains.
    """

    head: str
    family: str
    check_index: Callable[[Searcher, str], None]
    check_dataset: Callable[[Dataset], None]
    freeze: Callable[[Training, Searcher], None]
    head_training: Callable[[Training, SetInfo], HeadTraining[Any, Any]]
    fields: bool = False


def check_rows(dataset: Dataset) -> None:
    """Refuse an uploaded set with too few rows. Raises ``validation``."""
    if dataset.rows < LEAST_ROWS:
        raise invalid("#/dataset", f"it has {dataset.rows} rows: at least {LEAST_ROWS} are needed")


def enough(rows: Sequence[object], what: str) -> None:
    """Refuse what is left when there is too little of it. Raises :class:`JobRefused`."""
    if len(rows) < LEAST_ROWS:
        raise JobRefused(f"{len(rows)} {what}: at least {LEAST_ROWS} are needed.")
