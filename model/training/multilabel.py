"""Training a head of independent labels: a text has any number of them.

The stages are those of `labels`. Every figure is of a threshold that has not seen the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.labels.gate import Gate
from model.labels.multilabel import (
    THRESHOLD,
    IndependentGate,
    best_threshold,
    binary_loss,
    logit,
    marks_of,
)
from model.metrics import set_scores
from model.optimise import RIDGE, minimise
from model.training.calibration import Evidence, best_k
from model.training.evaluation import Answers
from model.training.labels import LabelTraining
from model.training.split import Row
from model.training.workspace import TrainingRefused


@dataclass
class MultilabelTraining(LabelTraining):
    """One label counts as a list of one, and an empty list says that no label applies.

    Recorded feedback is not measured on: that one label is right says nothing of the others.
    """

    multilabel: ClassVar[bool] = True

    @cached_property
    def usable(self) -> list[Row]:
        """The rows that can be learned from."""
        return [row for row in self.rows if row.label is not None and row.text.strip()]

    @cached_property
    def feedback(self) -> list[Row]:
        """None of it."""
        return []

    def truth(self, rows: Sequence[Row]) -> Tensor:
        """Their labels, [n, L], 0 or 1."""
        return marks_of(self.labels, [row.names for row in rows])

    def check(self) -> list[str]:
        """Refuse too few labels; warnings of what is left out."""
        labels, items = len(self.labels), len(self.feedback_items)
        if labels < 2:
            raise TrainingRefused(
                f"the {len(self.usable)} rows carry {labels} labels; two are needed"
            )
        unused = f"{items} recorded opinions name one label each and were not measured on"
        return [unused] if items else []

    def choose_k(self, gate: Gate, evidence: Evidence) -> int:
        """Fit k, gate, temperatures and threshold on rows that were not trained on."""
        return best_k(gate, evidence, max(self.config.k, 1), _trial)

    def fitted_gate(self, rows: Evidence) -> IndependentGate:
        """A gate that is fitted on some rows."""
        return _fitted(rows)

    def answered(self, probs: Tensor, gate: Gate | None) -> Tensor:
        """Which labels are answered, [n, L], by the gate's threshold."""
        return probs >= (gate.threshold if isinstance(gate, IndependentGate) else THRESHOLD)

    def closed_book(self, evidence: Evidence, gate: Gate | None) -> Answers:
        """Answers with nothing retrieved; `gate`: the head's, where it has one that fits."""
        return self.by_gate(evidence, gate)[1]

    def figures(self, truth: Answers, answers: Answers) -> dict[str, float]:
        """The metrics of a condition."""
        return set_scores(truth, answers)

    def decisions(self, probs: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The confidence of each label, and whether it is right."""
        return probs.flatten(), truth.flatten().bool()

    def raw(self, logits: Tensor) -> Tensor:
        """Logits [n, L] as probabilities, before any calibration."""
        return torch.sigmoid(logits)

    def calibration(self, evidence: Evidence, probs: Tensor, gate: Gate) -> dict[str, float]:
        """Calibration error over all decisions, before and after, and what was fitted."""
        assert isinstance(gate, IndependentGate)  # `HeadConfig.multilabel` says so
        threshold = float(gate.threshold.detach())
        return super().calibration(evidence, probs, gate) | {"threshold": threshold}


def _trial(rows: Evidence) -> tuple[float, IndependentGate]:
    """The loss of a gate that was fitted on some rows, and the gate."""
    gate = _fitted(rows)
    with torch.no_grad():
        probs = gate(rows.logits, rows.neighbours(rows.logits.shape[1])).probs
        return float(binary_loss(probs, rows.truth).sum(-1).mean()), gate


def _fitted(rows: Evidence) -> IndependentGate:
    gate = IndependentGate()
    fit_multilabel(gate, rows)
    return gate


def fit_multilabel(gate: IndependentGate, evidence: Evidence) -> None:
    """Fit temperatures, gate, new labels and threshold, in place, on rows not trained on."""
    truth, n = evidence.truth, evidence.logits.shape[1]
    with torch.no_grad():
        gate.log_temperature.zero_()
        gate.shift.zero_()

    def head() -> Tensor:
        cool = gate.log_head_temperature
        # Rows without a mistake would want an ever lower temperature.
        loss = F.binary_cross_entropy_with_logits(evidence.logits / cool.exp(), truth)
        return RIDGE * cool**2 + loss

    minimise([gate.log_head_temperature], head)
    neighbours = evidence.neighbours(n)
    start = gate.weights.detach().clone()

    def mixed() -> Tensor:
        ridge = RIDGE * ((gate.weights - start) ** 2).sum()
        return ridge + binary_loss(gate.mixed(evidence.logits, neighbours)[0], truth).mean()

    minimise([gate.weights], mixed)
    share, some = neighbours.probs, neighbours.probs > 0
    if bool(some.any()):
        before = gate.novel.detach().clone()

        def new() -> Tensor:
            ridge = RIDGE * ((gate.novel - before) ** 2).sum()
            return ridge + binary_loss(gate.by_neighbours(share[some]), truth[some]).mean()

        minimise([gate.novel], new)
    with torch.no_grad():
        p = gate.mixed(evidence.logits, neighbours)[0]

    def last() -> Tensor:
        ridge = RIDGE * (gate.log_temperature**2 + gate.shift**2)
        calibrated = logit(p) / gate.log_temperature.exp() + gate.shift
        return ridge + F.binary_cross_entropy_with_logits(calibrated, truth)

    minimise([gate.log_temperature, gate.shift], last)
    with torch.no_grad():
        gate.threshold.fill_(best_threshold(gate.calibrated(p), truth)[0])
