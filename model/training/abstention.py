"""Coverage against risk: what is gained by giving no answer below a threshold.

The risk-coverage curve of selective prediction (El-Yaniv and Wiener 2010).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)


def risk_coverage(scores: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """Thresholds that answer at least a share of the rows, and how many of these are right.

    Rows of equal score are answered together, so a coverage may be above the one that was wanted.
    Each point: `threshold` (answered at or above it), `coverage`, `accuracy`, `rows`.
    """
    if not scores:
        return []
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked = np.asarray(scores, dtype=np.float64)[order]
    correct = np.cumsum(np.asarray(right, dtype=np.float64)[order])
    points: dict[int, dict[str, float]] = {}
    for wanted in COVERAGES:
        least = max(1, int(np.ceil(wanted * len(ranked) - 1e-9)))
        threshold = ranked[least - 1]
        rows = int(np.searchsorted(-ranked, -threshold, side="right"))
        points[rows] = {
            "threshold": float(threshold),
            "coverage": rows / len(ranked),
            "accuracy": float(correct[rows - 1] / rows),
            "rows": float(rows),
        }
    return list(points.values())
