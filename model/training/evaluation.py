"""Figures for the report of a training run: retrieval on, off, and the neighbours alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.labels.gate import Gate
from model.labels.memory import make_memory
from model.labels.neighbours import plain_vote
from model.metrics import accuracy, calibration_error, f1_by_label, macro_f1
from model.training.batches import Prepared
from model.training.calibration import Evidence, fit_gate


def open_book(evidence: Evidence, gate: Gate, n: int, *, apart: bool) -> Tensor:
    """Probabilities [rows, n] over the head's labels, by a gate that has not seen the row.

    `apart`: the gate was fitted on other rows. If not, it is fitted on one half and measured on
    the other, both ways, so that no row is judged by a gate that has seen it.
    """
    probs = torch.zeros(len(evidence.truth), n)
    if apart or len(evidence.truth) < 20:
        with torch.no_grad():
            probs = gate(evidence.logits, evidence.neighbours(n)).probs
    else:
        half = torch.arange(len(evidence.truth)) % 2 == 0
        for fit_on, measure in ((half, ~half), (~half, half)):
            trial = Gate()
            fit_gate(trial, evidence.rows(fit_on))
            part = evidence.rows(measure)
            with torch.no_grad():
                probs[measure] = trial(part.logits, part.neighbours(n)).probs
    return probs


def judge(
    evidence: Evidence, closed: Tensor, gate: Gate, labels: Sequence[str], probs: Tensor
) -> tuple[dict[str, dict[str, float]], dict[str, float], dict[str, float]]:
    """Metrics with retrieval on and off, F1 by label, and calibration before and after.

    `probs` [n, L]: with retrieval on, as `open_book` gives them.
    """
    right = (probs.argmax(-1) == evidence.truth).tolist()
    raw = evidence.logits.softmax(-1)
    metrics = {
        "on": scores(probs, evidence.truth, labels),
        "off": scores(closed.softmax(-1), evidence.truth, labels),
    }
    truth = [labels[i] for i in evidence.truth.tolist()]
    by_label = f1_by_label(truth, [labels[i] for i in probs.argmax(-1).tolist()])
    calibration = {
        "ece_before": calibration_error(
            raw.amax(-1).tolist(), (raw.argmax(-1) == evidence.truth).tolist()
        ),
        "ece_after": calibration_error(probs.amax(-1).tolist(), right),
        "temperature": float(gate.log_temperature.detach().exp()),
        "head_temperature": float(gate.log_head_temperature.detach().exp()),
    }
    return metrics, by_label, calibration


def scores(probs: Tensor, truth: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 of probabilities [n, L]."""
    said = [labels[i] for i in probs.argmax(-1).tolist()]
    true = [labels[i] for i in truth.tolist()]
    return {
        "accuracy": accuracy(true, said),
        "macro_f1": macro_f1(true, said),
        "rows": float(len(true)),
    }


def neighbours_alone(data: Prepared, rows: Sequence[int], labels: Sequence[str], k: int) -> Tensor:
    """The same rows by hits alone with nothing learned: what the server does with no head.

    Probabilities [rows, L].
    """
    memory = make_memory([data.hits[i] for i in rows], labels, data.base.shape[1], k)
    vote = plain_vote(data.base[list(rows)], memory, len(labels))
    return vote.probs
