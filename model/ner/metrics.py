"""Figures for entities: strict F1 of whole spans, and how far their scores can be trusted.

A span counts where start, end and type are right (CoNLL-2003's measure; `benchmarks.ner` holds it
equal to seqeval's). Truth and answers are lists of spans, one a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.metrics import calibration_error

Truth = Sequence[Sequence[tuple[int, int, str]]]
"""Start, end and type of each span."""
ScoredSpan = tuple[int, int, str, float]
"""A span of an answer: start, end, type, score."""
Answers = Sequence[Sequence[ScoredSpan]]


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
        rows = float(self.rows)
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "rows": rows}


def span_scores(truth: Truth, answers: Answers) -> Scores:
    """Precision, recall and F1 over all texts (micro), and F1 by type."""
    right: Counter[str] = Counter()
    there: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for true, spans in _sets(truth, answers):
        there.update(kind for _, _, kind in true)
        given.update(kind for _, _, kind in spans)
        right.update(kind for _, _, kind in spans & true)
    by_type = {
        kind: _figures(right[kind], there[kind], given[kind])[2] for kind in sorted(there | given)
    }
    figures = _figures(right.total(), there.total(), given.total())
    return Scores(*figures, len(truth), by_type)


def row_counts(truth: Truth, answers: Answers) -> list[tuple[float, float]]:
    """For each text 2 * right, and there + given: their sums' quotient is F1."""
    pairs = _sets(truth, answers)
    return [(2.0 * len(true & spans), float(len(true) + len(spans))) for true, spans in pairs]


def calibration_of(truth: Truth, answers: Answers) -> dict[str, float]:
    """Expected calibration error of the entities' scores, 15 bins."""
    judged = [
        (score, (start, end, kind) in true)
        for true, row in zip(truth, answers, strict=True)
        for start, end, kind, score in row
    ]
    if not judged:
        return {}
    return {
        "ece": calibration_error(
            [score for score, _ in judged], [is_right for _, is_right in judged]
        )
    }


def _sets(
    truth: Truth, answers: Answers
) -> Iterator[tuple[set[tuple[int, int, str]], set[tuple[int, int, str]]]]:
    for true, row in zip(truth, answers, strict=True):
        yield {*true}, {(start, end, kind) for start, end, kind, _ in row}


def _figures(right: int, there: int, given: int) -> tuple[float, float, float]:
    precision = right / given if given else 0.0
    recall = right / there if there else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0
