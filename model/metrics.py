"""Task metrics: accuracy, macro F1, calibration error, AUROC, two models on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = str | Sequence[str]
"""A row's label, or the labels that it has."""
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Share that is equal; of nothing, 0."""
    if not truth:
        return 0.0
    return sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth)


def f1_by_label(truth: Sequence[Labels], predicted: Sequence[Labels]) -> dict[str, float]:
    """F1 of each label that occurs on either side."""
    pairs = [(_set(t), _set(p)) for t, p in zip(truth, predicted, strict=True)]
    scores: dict[str, float] = {}
    for label in sorted({label for t, p in pairs for label in t | p}):
        right = sum(label in t and label in p for t, p in pairs)
        total = sum(label in t for t, _ in pairs) + sum(label in p for _, p in pairs)
        scores[label] = 2 * right / total
    return scores


def macro_f1(truth: Sequence[Labels], predicted: Sequence[Labels]) -> float:
    """Mean of `f1_by_label` over the labels of the truth."""
    scores = f1_by_label(truth, predicted)
    kinds = sorted({label for labels in truth for label in _set(labels)})
    return float(np.mean([scores[label] for label in kinds])) if kinds else 0.0


def row_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """2 |T and P| / (|T| + |P|) of the labels of one row; 1 where both are empty."""
    true, given = set(truth), set(predicted)
    total = len(true) + len(given)
    return 2 * len(true & given) / total if total else 1.0


def set_scores(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Figures of answers that are sets of labels."""
    pairs = [(set(t), set(p)) for t, p in zip(truth, predicted, strict=True)]
    right = sum(len(t & p) for t, p in pairs)
    total = sum(len(t) + len(p) for t, p in pairs)
    f1 = [row_f1(t, p) for t, p in zip(truth, predicted, strict=True)]
    return {
        "micro_f1": 2 * right / total if total else 0.0,  # over all decisions
        "macro_f1": macro_f1(truth, predicted),  # the mean over the labels of the truth,
        "row_f1": float(np.mean(f1)) if f1 else 0.0,  # and over the rows
        "accuracy": sum(t == p for t, p in pairs) / len(pairs) if pairs else 0.0,  # whole sets
        "rows": float(len(pairs)),
    }


def _set(labels: Labels) -> set[str]:
    return {labels} if isinstance(labels, str) else set(labels)


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error over equal bins of confidence (Guo et al. 2017)."""
    c, r = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if not len(c):
        return 0.0
    which = np.minimum((c * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            error += float(inside.mean() * abs(c[inside].mean() - r[inside].mean()))
    return error


def auroc(inside: Sequence[float] | Floats, outside: Sequence[float] | Floats) -> float:
    """Chance that an item of `inside` scores above one of `outside`, ties half (Mann-Whitney).

    0.5 where either has no items.
    """
    n, m = len(inside), len(outside)
    if not n or not m:
        return 0.5
    scores = np.concatenate([np.asarray(inside), np.asarray(outside)])
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[group]
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def risk_coverage(scores: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """Coverage against risk (El-Yaniv and Wiener 2010): what giving no answer gains.

    Thresholds that answer at least a share of the rows, and how many of these are right.

    Rows of equal score are answered together, so a coverage may be above the one asked for.
    Each point: `threshold` (answered at or above it), `coverage`, `accuracy`, `rows`.
    """
    if not scores:
        return []
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked = np.asarray(scores, dtype=np.float64)[order]
    correct = np.cumsum(np.asarray(right, dtype=np.float64)[order])
    points: dict[int, dict[str, float]] = {}
    for coverage in COVERAGES:
        least = max(1, int(np.ceil(coverage * len(ranked) - 1e-9)))
        threshold = ranked[least - 1]
        rows = int(np.searchsorted(-ranked, -threshold, side="right"))
        points[rows] = {
            "threshold": float(threshold),
            "coverage": rows / len(ranked),
            "accuracy": float(correct[rows - 1] / rows),
            "rows": float(rows),
        }
    return list(points.values())


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same rows: how many the first, and the second does better on."""

    rows: int
    better: int
    worse: int

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Paired:
        """Count, by a figure (or right and wrong) for each row."""
        pairs = list(zip(ours, theirs, strict=True))
        return cls(len(pairs), sum(o > t for o, t in pairs), sum(o < t for o, t in pairs))

    def plus(self, other: Paired) -> Paired:
        """Both sets of rows together."""
        return Paired(self.rows + other.rows, self.better + other.better, self.worse + other.worse)

    @property
    def difference(self) -> float:
        """Of the accuracies."""
        return (self.better - self.worse) / self.rows if self.rows else 0.0

    def lower(self, *, level: float = 0.9, draws: int = 20_000, seed: int = 0) -> float:
        """The lower end of the one-sided bootstrap interval of the difference."""
        if not self.rows:
            return 0.0
        shares = np.array([self.better, self.worse, self.rows - self.better - self.worse])
        drawn = np.random.default_rng(seed).multinomial(self.rows, shares / self.rows, size=draws)
        means = (drawn[:, 0] - drawn[:, 1]) / self.rows
        return float(np.quantile(means, 1 - level, method="lower"))

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two models on the same rows, by a figure that is a ratio of sums over the rows.

    F1 of spans is 2 * right / (there + found) over all texts; the mean of each answer's F1 is its
    sum / rows. `better` and `worse`: rows that one of the two does better on. `difference` and
    `lower_90` (the lower end of its one-sided 90 % interval, rows drawn anew) are of the figure.
    """

    metric: str
    rows: int
    better: int
    worse: int
    ours: float
    theirs: float
    difference: float
    lower_90: float

    @classmethod
    def of(
        cls,
        metric: str,
        ours: Sequence[tuple[float, float]],
        theirs: Sequence[tuple[float, float]],
        *,
        draws: int = 10_000,
        seed: int = 0,
    ) -> Compared:
        """Of (numerator, denominator) for each row; there must be a row."""
        a, b = (np.asarray(rows, dtype=np.float64) for rows in (ours, theirs))
        one, other = _ratio(a, 1.0), _ratio(b, 1.0)  # nothing there and nothing found is right
        first, second = float(_ratio(a.sum(0), 0.0)), float(_ratio(b.sum(0), 0.0))
        rng = np.random.default_rng(seed)
        n, parts = len(a), []
        for start in range(0, draws, 500):
            times = rng.multinomial(n, np.full(n, 1 / n), size=min(500, draws - start))
            parts.append(_ratio(times @ a, 0.0) - _ratio(times @ b, 0.0))
        lower = float(np.quantile(np.concatenate(parts), 0.1, method="lower"))
        better, worse = int((one > other).sum()), int((one < other).sum())
        return cls(metric, n, better, worse, first, second, first - second, lower)

    def lower(self) -> float:
        """The lower end of the one-sided bootstrap interval of the difference."""
        return self.lower_90

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def _ratio(sums: Floats, of_nothing: float) -> Floats:
    """The quotient of the two numbers in the last axis."""
    top, bottom = sums[..., 0], sums[..., 1]
    out: Floats = np.full(top.shape, of_nothing)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out
