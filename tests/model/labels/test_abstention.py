from __future__ import annotations

import numpy as np
import pytest

from model.metrics import COVERAGES, risk_coverage


def test_by_hand() -> None:
    points = risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, False])
    assert points[0] == {"threshold": 0.6, "coverage": 1.0, "accuracy": 0.5, "rows": 4.0}
    by_rows = {point["rows"]: point["accuracy"] for point in points}
    assert by_rows == {4: 0.5, 3: pytest.approx(2 / 3), 2: 1.0}


def test_equal_scores_stay_together() -> None:
    points = risk_coverage([0.5] * 10, [True] * 4 + [False] * 6)
    assert [(p["coverage"], p["accuracy"]) for p in points] == [(1.0, 0.4)]
    assert risk_coverage([], []) == []


def test_against_counting() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(500).round(2)
    right = rng.random(500) < scores
    points = risk_coverage(scores.tolist(), right.tolist())
    assert len(points) == len(COVERAGES)
    for point, wanted in zip(points, COVERAGES, strict=True):
        answered = scores >= point["threshold"]
        assert point["coverage"] == answered.mean() >= wanted
        assert point["accuracy"] == pytest.approx(right[answered].mean())
    accuracies = [point["accuracy"] for point in points]
    assert accuracies[-1] > accuracies[0]
