from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.metrics import (
    COVERAGES,
    Compared,
    accuracy,
    auroc,
    calibration_error,
    macro_f1,
    risk_coverage,
)

SCORES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_ordered_pairs(inside: list[float], outside: list[float]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_counts_pairs() -> None:
    assert auroc([0.9, 0.2], [0.2]) == pytest.approx(0.75)
    assert auroc([0.1], []) == 0.5


def test_calibration_error_by_hand() -> None:
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([0.9, 0.9], [True, False]) == pytest.approx(0.4)
    assert calibration_error([0.9, 0.1], [True, False]) == pytest.approx(0.1)
    assert calibration_error([], []) == 0.0


def test_f1_and_accuracy_by_hand() -> None:
    truth, said = ["a", "a", "b", "c"], ["a", "b", "b", "b"]
    assert accuracy(truth, said) == 0.5
    assert macro_f1(truth, said) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert accuracy([], []) == 0.0


def test_a_ratio_is_compared_on_the_same_rows() -> None:
    """Spans of three texts: nothing there and nothing found is right."""
    ours = [(4.0, 4.0), (0.0, 0.0), (2.0, 4.0)] * 30
    theirs = [(2.0, 4.0), (0.0, 1.0), (2.0, 3.0)] * 30
    found = Compared.of("f1", ours, theirs)
    assert (found.rows, found.better, found.worse) == (90, 60, 30)
    assert found.ours == pytest.approx(6 / 8)
    assert found.theirs == pytest.approx(4 / 8)
    assert 0.1 < found.lower() < found.difference == pytest.approx(0.25)
    same = Compared.of("f1", ours, ours)
    assert (same.difference, same.lower_90, same.better, same.worse) == (0.0, 0.0, 0, 0)
    none = Compared.of("f1", [(0.0, 0.0)], [(0.0, 0.0)])
    assert (none.ours, none.theirs, none.lower_90) == (0.0, 0.0, 0.0)


def test_risk_and_coverage_by_hand() -> None:
    points = risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, False])
    assert points[0] == {"threshold": 0.6, "coverage": 1.0, "accuracy": 0.5, "rows": 4.0}
    by_rows = {point["rows"]: point["accuracy"] for point in points}
    assert by_rows == {4: 0.5, 3: pytest.approx(2 / 3), 2: 1.0}


def test_rows_of_equal_score_are_answered_together() -> None:
    points = risk_coverage([0.5] * 10, [True] * 4 + [False] * 6)
    assert [(p["coverage"], p["accuracy"]) for p in points] == [(1.0, 0.4)]
    assert risk_coverage([], []) == []


def test_risk_and_coverage_against_counting() -> None:
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
