"""A training job as every task sees it, and what a task says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.records.datasets import Dataset, DatasetBroken, load_rows
from app.records.feedback import FeedbackItem
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

        Raises :class:`JobRefused` when it is gone or is not what was uploaded.
        """
        if self.params.get("_dataset") is None:
            return None
        try:
            return load_rows(Path(self.params["_dataset"]))[1]
        except DatasetBroken as broken:
            raise JobRefused(str(broken)) from broken

    @contextmanager
    def store(self) -> Iterator[ReadOnlyStore]:
        """The document store, for reading only."""
        store = ReadOnlyStore(Path(self.params["_store"]))
        try:
            yield store
        finally:
            store.close()

    def feedback(
        self, read: Callable[[ReadOnlyStore, str], list[FeedbackItem]]
    ) -> list[FeedbackItem]:
        """Recorded feedback on the head's own field: the newest so many."""
        with self.store() as store:
            return read(store, self.field)[-MAX_FEEDBACK:]


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


def check_rows(found: Dataset) -> None:
    """Refuse an uploaded set with too few rows. Raises ``validation``."""
    if found.rows < LEAST_ROWS:
        raise invalid("#/dataset", f"it has {found.rows} rows: at least {LEAST_ROWS} are needed")


def enough(rows: Sequence[object], what: str) -> None:
    """Refuse what is left when there is too little of it. Raises :class:`JobRefused`."""
    if len(rows) < LEAST_ROWS:
        raise JobRefused(f"{len(rows)} {what}: at least {LEAST_ROWS} are needed.")
