"""Training a head on rows that arrive with their hits, and the report that says how good it is.

Retrieval has happened already (never the row itself or a near-duplicate), so a training set can be
frozen, compared and replayed. A run leaves its state in a folder beside `out` after every epoch;
the same call finds it there and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint import verify
from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.gate import Gate
from model.labels.network import RetrievalAugmentedModel
from model.metrics import accuracy, macro_f1
from model.reader import Reader
from model.training.batches import evidence_of, prepare
from model.training.calibration import Evidence, choose_k
from model.training.diagnosis import diagnose
from model.training.evaluation import judge, neighbours_alone, open_book, scores
from model.training.feedback import judge_feedback
from model.training.run import Run, head_config, others_of, plain_rows
from model.training.split import Row, make_folds, plan_rows
from model.training.trainer import Progress, TrainingCancelled
from model.training.workspace import (
    HeadReport,
    TrainingRefused,
    fingerprint,
    open_workspace,
    publish,
)

__all__ = [
    "Report",
    "Row",
    "TrainConfig",
    "TrainingCancelled",
    "TrainingRefused",
    "train",
    "train_head",
]


@dataclass(slots=True)
class Report(HeadReport):
    """What a run did. `metrics` by view: `on`, `off` (same weights, book closed), `neighbours`
    (hits alone, nothing learned), `none` (trained without retrieval), `previous` (the base's own
    head); each with accuracy, macro_f1 and rows. `evaluated_on`: `held-out` or `out-of-fold`.
    `diagnosis`: see `model.training.diagnosis`.
    """

    labels: list[str]
    by_label: dict[str, float]
    best_epoch: int


def train(
    model: nn.Module, data_loader: Iterable[tuple[Any, Any, Tensor]], epochs: int, lr: float
) -> list[float]:
    """The plain loop: SGD and cross-entropy over (x, retrieved documents, label) batches.

    Returns the mean loss of each epoch. `train_head` is this with what makes it good and safe.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()
    losses: list[float] = []
    model.train()
    for _ in range(epochs):
        seen: list[float] = []
        for x, retrieved_docs, y in data_loader:
            optimizer.zero_grad()
            loss = criterion(model(x, retrieved_docs), y)
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
        losses.append(sum(seen) / max(len(seen), 1))
    return losses


def train_head(
    rows: Sequence[Row],
    config: TrainConfig,
    encoder: Encoder,
    out: Path,
    *,
    base: Path | None = None,
    baseline: bool = True,
    feedback_items: Sequence[Row] = (),
    documents: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Report:
    """Train one head and write a checkpoint to `out`; the other heads of `base` are copied.

    `baseline`: also train *none*, the same without retrieval, for the report. `opinions`: further
    rows that are only measured on, for the gate. `documents`: what is written down of where the
    rows come from (`model.provenance`).

    Raises:
        TrainingRefused: No labelled row, or fewer than two labels.
        TrainingCancelled: `cancelled` answered true; the same call resumes.
        CheckpointRefused: `base` does not verify or belongs to another encoder; `out` exists.
    """
    if base is not None:
        verify(base)  # before the work, not after it
    usable = [row for row in rows if isinstance(row.label, str) and row.text.strip()]
    labels = _labels(usable, rows)
    plan = plan_rows(usable, config)
    config = config.resolved(len(plan.train))
    warnings = plan.warnings + (
        [f"{len(rows) - len(usable)} rows without a label of their own were left out"]
        if len(rows) > len(usable)
        else []
    )
    digest = fingerprint(config.to_json(), encoder, plain_rows(usable))
    work = open_workspace(out, digest)
    head = head_config(config, labels, encoder)
    config = replace(config, layers=head.layers)
    position = {label: i for i, label in enumerate(labels)}
    everything = [*usable, *(row for row in feedback_items if row.label in position)]
    data = prepare(
        encoder,
        [row.text for row in everything],
        [position[str(row.label)] for row in everything],
        [row.hits[: config.k] for row in everything],
        config,
    )
    others = others_of(usable, labels, encoder, config) if config.ngrams else None
    run = Run(head, encoder, data, config, work, others)
    # With nothing held out there is nothing else to fit the gate on.
    folds = make_folds(plan.train, max(int(config.folds or 1), 1 if plan.held else 2))
    run.count(plan.train, folds, baseline, progress, cancelled)
    parts = run.fold_by_fold(plan.train, folds)
    model, fitted = run.stage("main", plan.train, plan.held, config)
    evaluated_on = "held-out" if plan.held else "out-of-fold"
    beside = run.beside(model, plan, folds, parts)
    unseen, closed = beside.measured
    k, gate = _settle(model, beside.fitting, config)
    head = replace(head, k=k, ngrams=beside.features)
    evaluated = plan.held or [i for fold in folds for i in fold]
    evidence = unseen.first(k)
    probs = open_book(evidence, gate, len(labels), apart=bool(parts))
    metrics, by_label, calibration = judge(evidence, closed, gate, labels, probs)
    calibration["ngrams"] = beside.share
    alone = neighbours_alone(data, evaluated, labels, config.k)
    metrics["neighbours"] = scores(alone, evidence.truth, labels)
    views = {"on": probs, "off": closed, "neighbours": alone}
    if baseline:
        plain = replace(config, retrieval=False)
        # Without a held-out part there is nothing to compare on: the folds were trained open.
        if plan.held:
            none, _ = run.stage("none", plan.train, plan.held, plain)
            shut = beside.with_none(evidence_of(none, data, plan.held, closed_only=True)[0])
            metrics["none"] = scores(shut.logits.softmax(-1), evidence.truth, labels)
            views["none"] = shut.logits
    answers = {view: [labels[i] for i in p.argmax(-1).tolist()] for view, p in views.items()}
    measured = [usable[i] for i in evaluated]
    if base is not None:
        previous = _previous(base, run, usable, evaluated)
        if previous is not None:
            answers["previous"], metrics["previous"] = previous
    diagnosis = diagnose(probs, evidence, measured, labels, answers)
    if asked := list(range(len(usable), len(everything))):
        before = _previous(base, run, everything, asked) if base is not None else None
        diagnosis["feedback"] = judge_feedback(
            model, data, asked, k=k, hits=config.k, previous=before[0] if before else None
        )
    report = Report(
        field=config.field,
        task=config.task,
        labels=labels,
        rows=len(usable),
        trained_on=len(plan.train),
        held_out=len(plan.held),
        evaluated_on=evaluated_on,
        metrics=metrics,
        by_label=by_label,
        calibration=calibration,
        diagnosis=diagnosis,
        k=k,
        config=config.to_json(),
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        tokens_per_second=fitted.tokens / max(fitted.seconds, 1e-9),
        seconds=fitted.seconds,
        encoder_sha256=encoder.sha256,
        data_sha256=digest,
        warnings=warnings,
    )
    publish(out, head, model, report, encoder, base=base, work=work, documents=documents)
    return report


def _settle(
    model: RetrievalAugmentedModel, evidence: Evidence, config: TrainConfig
) -> tuple[int, Gate]:
    """Fit k, gate and temperatures on rows that were not trained on."""
    if not config.retrieval:
        evidence = evidence.first(0)
    try:
        k = choose_k(model.gate, evidence, limit=max(config.k, 1), seed=config.seed)
    except ArithmeticError as error:
        raise TrainingRefused(str(error)) from error
    return k, model.gate


def _labels(usable: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    if not usable:
        raise TrainingRefused(f"none of the {len(rows)} rows carries a label of its own")
    labels = sorted({str(row.label) for row in usable})
    if len(labels) < 2:
        raise TrainingRefused(
            f"the {len(usable)} labelled rows carry one label ({labels[0][:80]!r}); two are needed"
        )
    return labels


def _previous(
    base: Path,
    run: Run,
    rows: Sequence[Row],
    evaluated: Sequence[int],
) -> tuple[list[str], dict[str, float]] | None:
    """The base checkpoint's own head on the same rows, by the code that serves it."""
    reader = Reader.load(base, run.encoder)
    if run.head.field not in reader.heads:
        return None
    said: list[str] = []
    for start in range(0, len(evaluated), 64):
        part = evaluated[start : start + 64]
        states = reader.read([run.data.token_ids[i] for i in part], [run.head.field] * len(part))
        hits = [rows[i].hits for i in part]
        answers = reader.predict(states, hits, run.head.field, index_labels=run.head.labels)
        said += [str(answer.label) for answer in answers]
    truth = [str(rows[i].label) for i in evaluated]
    return said, {
        "accuracy": accuracy(truth, said),
        "macro_f1": macro_f1(truth, said),
        "rows": float(len(truth)),
    }
