"""Figures for entities: strict F1 of whole spans, and how far their scores can be trusted.

A span counts where start, end and type are right (CoNLL-2003's measure; `benchmarks.ner` holds it
equal to seqeval's).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.metrics import calibration_error

ScoredSpan = tuple[int, int, str, float]
"""A span as it was found: start, end, type, score."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Over all spans of `rows` texts; 0 to 1."""

    precision: float
    recall: float
    f1: float
    rows: int
    by_type: dict[str, float]

    def to_json(self) -> dict[str, float]:
        """The figures over all types."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "rows": float(self.rows),
        }


def span_scores(
    truth: Sequence[Sequence[tuple[int, int, str]]],
    answers: Sequence[Sequence[ScoredSpan]],
) -> Scores:
    """Precision, recall and F1 over all texts (micro), and F1 by type."""
    right: Counter[str] = Counter()
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for gold, answer in zip(truth, answers, strict=True):
        spans = {(start, end, kind) for start, end, kind, _ in answer}
        there.update(kind for _, _, kind in gold)
        found.update(kind for _, _, kind in spans)
        right.update(kind for _, _, kind in spans & {(a, b, t) for a, b, t in gold})
    precision, recall, f1 = _figures(right.total(), there.total(), found.total())
    by_type = {
        kind: _figures(right[kind], there[kind], found[kind])[2]
        for kind in sorted({*there, *found})
    }
    return Scores(precision, recall, f1, len(truth), by_type)


def row_counts(
    truth: Sequence[Sequence[tuple[int, int, str]]], answers: Sequence[Sequence[ScoredSpan]]
) -> list[tuple[float, float]]:
    """For each text 2 * right, and there + found: their sums' quotient is F1."""
    rows = []
    for gold, answer in zip(truth, answers, strict=True):
        there, found = {*gold}, {(start, end, kind) for start, end, kind, _ in answer}
        rows.append((2.0 * len(there & found), float(len(there) + len(found))))
    return rows


def calibration_of(
    truth: Sequence[Sequence[tuple[int, int, str]]],
    answers: Sequence[Sequence[ScoredSpan]],
) -> dict[str, float]:
    """Expected calibration error of the entities' scores, 15 bins."""
    scores: list[float] = []
    right: list[bool] = []
    for gold, answer in zip(truth, answers, strict=True):
        known = {(start, end, kind) for start, end, kind in gold}
        for start, end, kind, score in answer:
            scores.append(score)
            right.append((start, end, kind) in known)
    return {"ece": calibration_error(scores, right)} if scores else {}


def _figures(right: int, there: int, found: int) -> tuple[float, float, float]:
    precision = right / found if found else 0.0
    recall = right / there if there else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0
