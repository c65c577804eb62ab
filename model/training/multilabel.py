"""Training a head with independent labels, and its report: stages and files as `labels`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import verify
from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import make_memory
from model.labels.multilabel import (
    THRESHOLD,
    IndependentGate,
    MultilabelModel,
    choose_k_multilabel,
    fit_multilabel,
    marks_of,
)
from model.labels.neighbours import plain_vote
from model.metrics import Paired, calibration_error
from model.reader import Reader
from model.training.batches import evidence_of, prepare
from model.training.calibration import Evidence
from model.training.diagnosis import CITED, WORST, reliability
from model.training.labels import Report
from model.training.multilabel_metrics import f1_by_label, row_f1, set_scores
from model.training.run import Run, head_config, others_of, plain_rows
from model.training.split import Row, make_folds, plan_rows
from model.training.trainer import Progress
from model.training.workspace import TrainingRefused, fingerprint, open_workspace, publish

SHOWN = 0.02
"""Probabilities under it are so many and so surely right that they would hide the others."""
Sets = list[list[str]]


def train_multilabel(
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
    """Train one head on rows whose labels are lists and write a checkpoint to `out`.

    As `training.train_head`, with its arguments; one label counts as a list of one, and an empty
    list says that no label applies. Every figure is of a threshold that has not seen the row.
    `opinions` are not measured on: that one label is right says nothing of the others.

    Raises:
        TrainingRefused: No row with a label, or fewer than two labels.
        TrainingCancelled: `cancelled` answered true; the same call resumes.
        CheckpointRefused: `base` does not verify or belongs to another encoder; `out` exists.
    """
    if base is not None:
        verify(base)
    usable = [row for row in rows if row.label is not None and row.text.strip()]
    labels = sorted({name for row in usable for name in row.names})
    if len(labels) < 2:
        raise TrainingRefused(f"the {len(usable)} rows carry {len(labels)} labels; two are needed")
    plan = plan_rows(usable, config)
    config = config.resolved(len(plan.train))
    digest = fingerprint(config.to_json(), encoder, plain_rows(usable))
    work = open_workspace(out, digest)
    head = head_config(config, labels, encoder, multilabel=True)
    config = replace(config, layers=head.layers)
    truth = marks_of(labels, [row.names for row in usable])
    hits = [row.hits[: config.k] for row in usable]
    data = prepare(encoder, [row.text for row in usable], truth, hits, config)
    others = others_of(usable, labels, encoder, config, multilabel=True) if config.ngrams else None
    run = Run(head, encoder, data, config, work, others)
    # With nothing held out there is nothing else to fit the gate on.
    folds = make_folds(plan.train, max(int(config.folds or 1), 1 if plan.held else 2))
    run.count(plan.train, folds, baseline, progress, cancelled)
    parts = run.fold_by_fold(plan.train, folds)
    model, fitted = run.stage("main", plan.train, plan.held, config)
    assert isinstance(model, MultilabelModel)  # `head.multilabel` says so
    beside = run.beside(model, plan, folds, parts)
    unseen, closed = beside.measured
    k = choose_k_multilabel(model.gate, beside.fitting, limit=max(config.k, 1))
    evidence = unseen.first(k)
    probs, said = answers(evidence, labels, model.gate if parts else None)
    evaluated = plan.held or [i for fold in folds for i in fold]
    measured = [usable[i] for i in evaluated]
    shut = replace(evidence.first(0), logits=closed)
    views = {
        "on": said,
        "off": answers(shut, labels, model.gate)[1],
        "neighbours": neighbours_alone(measured, data.base[evaluated], labels, config.k),
    }
    if baseline and plan.held:
        none, _ = run.stage("none", plan.train, plan.held, replace(config, retrieval=False))
        alone = evidence_of(none, data, plan.held, closed_only=True)[0].first(0)
        alone = beside.with_none(alone)
        views["none"] = answers(alone, labels, None)[1]
    previous = _previous(base, run, measured) if base is not None else None
    if previous is not None:
        views["previous"] = previous
    true = [row.names for row in measured]
    report = Report(
        field=config.field,
        task=config.task,
        labels=labels,
        rows=len(usable),
        trained_on=len(plan.train),
        held_out=len(plan.held),
        evaluated_on="held-out" if plan.held else "out-of-fold",
        metrics={view: set_scores(true, given) for view, given in views.items()},
        by_label=f1_by_label(true, said),
        calibration={
            **_calibration(evidence, probs, model.gate),
            "ngrams": beside.share,
        },
        diagnosis=_diagnosis(evidence, probs, measured, views),
        k=k,
        config=config.to_json(),
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        tokens_per_second=fitted.tokens / max(fitted.seconds, 1e-9),
        seconds=fitted.seconds,
        encoder_sha256=encoder.sha256,
        data_sha256=digest,
        warnings=plan.warnings + _unasked(feedback_items),
    )
    head = replace(head, k=k, ngrams=beside.features)
    publish(out, head, model, report, encoder, base=base, work=work, documents=documents)
    return report


def _unasked(feedback_items: Sequence[Row]) -> list[str]:
    if not feedback_items:
        return []
    return [f"{len(feedback_items)} recorded opinions name one label each and were not measured on"]


def answers(
    evidence: Evidence, labels: Sequence[str], gate: IndependentGate | None
) -> tuple[Tensor, Sets]:
    """Probabilities [n, L] and what is answered, by a gate and threshold that saw none of the rows.

    No `gate`: there is none that was fitted on other rows, so one is fitted on one half and used on
    the other, both ways (with fewer than 20 rows: on all).
    """
    n, count = evidence.logits.shape[1], len(evidence.truth)
    everything = torch.ones(count, dtype=torch.bool)
    half = torch.arange(count) % 2 == 0
    halves = [(half, ~half), (~half, half)] if count >= 20 else [(everything, everything)]
    probs = torch.zeros(count, n)
    over = torch.zeros(count, n, dtype=torch.bool)
    for fit_on, measure in [(everything, everything)] if gate is not None else halves:
        trial = gate
        if trial is None:
            trial = IndependentGate()
            fit_multilabel(trial, evidence.rows(fit_on))
        part = evidence.rows(measure)
        with torch.no_grad():
            found = trial(part.logits, part.neighbours(n)).probs
            probs[measure], over[measure] = found, found >= trial.threshold
    return probs, [[labels[j] for j in row.nonzero().flatten().tolist()] for row in over]


def neighbours_alone(rows: Sequence[Row], base: Tensor, labels: Sequence[str], k: int) -> Sets:
    """The rows by hits alone with nothing learned: what the server does with no head."""
    hits = [row.hits for row in rows]
    memory = make_memory(hits, labels, base.shape[1], k, multilabel=True)
    shares = plain_vote(base, memory, len(labels)).probs
    return [[labels[j] for j, p in enumerate(row) if p >= THRESHOLD] for row in shares.tolist()]


def _previous(base: Path, run: Run, rows: Sequence[Row]) -> Sets | None:
    """What the base's own head says of the same rows, by the code that serves it."""
    reader, name = Reader.load(base, run.encoder), run.head.field
    if name not in reader.heads:
        return None
    said: Sets = []
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        states = reader.read([reader.tokenize(row.text) for row in part], [name] * len(part))
        hits = [row.hits for row in part]
        found = reader.predict(states, hits, name, index_labels=run.head.labels)
        said += [one.answered for one in found]
    return said


def _calibration(evidence: Evidence, probs: Tensor, gate: IndependentGate) -> dict[str, float]:
    """Calibration error over all decisions, before and after, and what was fitted."""
    truth = evidence.truth.flatten().bool().tolist()
    raw = torch.sigmoid(evidence.logits).flatten().tolist()
    return {
        "ece_before": calibration_error(raw, truth),
        "ece_after": calibration_error(probs.flatten().tolist(), truth),
        "temperature": float(gate.log_temperature.detach().exp()),
        "head_temperature": float(gate.log_head_temperature.detach().exp()),
        "threshold": float(gate.threshold.detach()),
    }


def _diagnosis(
    evidence: Evidence, probs: Tensor, rows: Sequence[Row], views: Mapping[str, Sets]
) -> dict[str, Any]:
    """As `model.training.diagnosis`, without confusion: a set is not taken for another set.

    Paired counts are of rows whose F1 is above and below the rival's.
    """
    truth = [row.names for row in rows]
    f1 = {
        view: [row_f1(t, s) for t, s in zip(truth, said, strict=True)]
        for view, said in views.items()
    }
    shown = probs.flatten() >= SHOWN
    told = probs.flatten()[shown].tolist()
    true = evidence.truth.flatten()[shown].bool().tolist()
    return {
        "by_label": {view: f1_by_label(truth, said) for view, said in views.items()},
        "support": dict(Counter(name for names in truth for name in names)),
        "reliability": reliability(told, true),
        "worst": _worst(evidence, probs, rows, views["on"], f1["on"]),
        "paired": {
            rival: compared(f1["on"], theirs).to_json()
            for rival, theirs in f1.items()
            if rival != "on"
        },
    }


def compared(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Counts of rows whose own figure is better and worse."""
    pairs = list(zip(ours, theirs, strict=True))
    return Paired(len(pairs), sum(o > t for o, t in pairs), sum(o < t for o, t in pairs))


def _worst(
    evidence: Evidence,
    probs: Tensor,
    rows: Sequence[Row],
    said: Sets,
    f1: Sequence[float],
) -> list[dict[str, Any]]:
    """The rows of the lowest F1, the surest first, with the hits that had the most weight."""
    weights = evidence.neighbours(probs.shape[1]).weights.tolist()
    sure = probs.amax(-1).tolist()
    found = []
    wrong = [i for i in range(len(rows)) if f1[i] < 1]
    for i in sorted(wrong, key=lambda i: (f1[i], -sure[i]))[:WORST]:
        sources, hits = rows[i].sources, rows[i].hits
        order = sorted(range(min(len(weights[i]), len(hits))), key=lambda j: -weights[i][j])
        found.append(
            {
                "id": rows[i].id,
                "truth": ", ".join(rows[i].names),
                "said": ", ".join(said[i]),
                "confidence": round(sure[i], 4),
                "citations": [
                    {
                        "doc_id": sources[j] if j < len(sources) else None,
                        "label": ", ".join(hits[j].names),
                        "weight": round(weights[i][j], 4),
                    }
                    for j in order[:CITED]
                ],
            }
        )
    return found
