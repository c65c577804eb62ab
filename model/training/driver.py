"""One training of one head, from its rows to a checkpoint: the stages that all tasks share.

What differs by task is a `HeadTraining` (`labels`, `multilabel`, `qa`, `ner`). Rows arrive with
their hits (never the row itself or a near-duplicate), so a training set can be frozen, compared and
replayed. A run leaves its state in a folder beside `out` after every epoch; the same call finds it
there and goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from model.checkpoint import HeadFiles, build, load_heads, save_checkpoint, verify
from model.config import HeadSettings, RunSettings
from model.encoder.encoder import Encoder
from model.training.curves import read_curve, thin
from model.training.split import Split
from model.training.trainer import LoopState, Progress, Ticker
from model.training.workspace import fingerprint, open_workspace

StartTicker = Callable[[int], Ticker]
"""Begins to count the steps of all networks of a run, so many in all."""


Network = TypeVar("Network", bound=nn.Module)


@dataclass(slots=True)
class Fitted(Generic[Network]):
    """A head after its training. `state`: of its own network."""

    head: HeadSettings
    model: Network
    state: LoopState


@dataclass(slots=True)
class Evaluated:
    """How good a head is, by condition (see `HeadReport`). `extra`: what only its task reports."""

    metrics: dict[str, dict[str, float]]
    calibration: dict[str, float]
    diagnosis: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


FittedT = TypeVar("FittedT", bound=Fitted[Any])
PreviousT = TypeVar("PreviousT")


class HeadTraining(Protocol[FittedT, PreviousT]):
    """What differs by task. The methods are called in this order, each once."""

    encoder: Encoder

    @property
    def config(self) -> RunSettings:
        """The settings; `split` and `fit` fill in what depends on rows and encoder."""

    def split(self) -> Split:
        """Check the rows, and choose those that are held out.

        Raises:
            TrainingRefused: There is nothing to learn from.
        """

    def plain_rows(self) -> Iterator[object]:
        """All that the run learns from, as plain data: its fingerprint is made of it."""

    def fit(self, split: Split, work: Path, start: StartTicker) -> FittedT:
        """Train the head's networks, each with a folder of its own in `work`; *main* is the head.

        Raises:
            TrainingCancelled: The caller asked for it.
            TrainingRefused: The weights became no numbers.
        """

    def previous(self, base: Path) -> PreviousT | None:
        """The head of this name in the base checkpoint, ready to answer; None: there is none."""

    def evaluate(self, fitted: FittedT, split: Split, previous: PreviousT | None) -> Evaluated:
        """Fit what is fitted on held-out rows, and measure the head beside its baselines."""


@dataclass(slots=True)
class HeadReport:
    """What a run did.

    `metrics` is by condition: `on` (with hits), `off` (same weights, book closed), `neighbours`
    (hits alone, nothing learned), `none` (trained without retrieval), `previous` (the base's own
    head); of question answering also `given` (the row's own text is read). `evaluated_on`: the rows
    that figures are of: `held-out`, or where those are too few `out-of-fold` (labels) or `training`
    (nothing is calibrated then). `diagnosis` holds at least `paired`: the new head against each
    baseline on the same rows. `extra`: what only the task's reports have.
    """

    field: str
    task: str
    rows: int
    trained_on: int
    held_out: int
    evaluated_on: str
    metrics: dict[str, dict[str, float]]
    calibration: dict[str, float]
    diagnosis: dict[str, Any]
    k: int
    config: dict[str, Any]
    epochs: int
    tokens_per_second: float
    seconds: float
    encoder_sha256: str
    data_sha256: str
    warnings: list[str]
    extra: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        raw = asdict(self)
        extra: dict[str, Any] = raw.pop("extra")
        return raw | extra


def train_head(
    task: HeadTraining[FittedT, PreviousT],
    out: Path,
    *,
    base: Path | None = None,
    documents: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> HeadReport:
    """Train one head and write a checkpoint to `out`; the other heads of `base` are copied.

    `documents`: what is written down of where the rows come from (`model.provenance`).

    Raises:
        TrainingRefused: There is nothing to learn from, or the weights became no numbers.
        TrainingCancelled: `cancelled` answered true; the same call resumes.
        CheckpointRefused: `base` does not verify or belongs to another encoder; `out` exists.
    """
    if base is not None:
        verify(base)  # before the work, not after it
    split = task.split()
    digest = fingerprint(task.config.to_json(), task.encoder, task.plain_rows())
    work = open_workspace(out, digest)
    fitted = task.fit(split, work, partial(Ticker, progress=progress, cancelled=cancelled))
    previous = None if base is None else task.previous(base)
    evaluated = task.evaluate(fitted, split, previous)
    state = fitted.state
    report = HeadReport(
        field=task.config.field,
        task=fitted.head.task,
        rows=split.rows,
        trained_on=len(split.train),
        held_out=len(split.held),
        evaluated_on="held-out" if split.held else split.instead,
        metrics=evaluated.metrics,
        calibration=evaluated.calibration,
        diagnosis=evaluated.diagnosis,
        k=fitted.head.k,
        config=task.config.to_json(),
        epochs=state.epoch,
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        seconds=state.seconds,
        encoder_sha256=task.encoder.sha256,
        data_sha256=digest,
        warnings=split.warnings + evaluated.warnings,
        extra=evaluated.extra,
    )
    written = report.to_json() | {"curve": thin(read_curve(work / "main"))}
    files = HeadFiles(fitted.head, dict(fitted.model.state_dict()), written, documents)
    save_checkpoint(out, {report.field: files}, task.encoder, base=base)
    shutil.rmtree(work, ignore_errors=True)
    return report


def head_settings(config: RunSettings, encoder: Encoder) -> dict[str, Any]:
    """What a head takes over from its run: fields of `HeadSettings`."""
    return {
        "field": config.field,
        "encoder_sha256": encoder.sha256,
        "dim": encoder.dim,
        "layers": min(config.layers, encoder.depth),
        "rank": config.rank,
        "k": config.k,
        "dropout": config.dropout,
    }


def base_network(base: Path, field: str, encoder: Encoder, kind: type[Network]) -> Network | None:
    """The network of a base's head, to compare with; None: it has none of this name and kind."""
    files = load_heads(base)[1].get(field)
    network = build(files, encoder) if files is not None else None
    if not isinstance(network, kind):
        return None
    return network.requires_grad_(False).to(encoder.device)
