import math

import numpy as np
import pytest

from benchmarks.tools.reciprocal import fused_ranks
from benchmarks.tools.statistics import interval, ndcg, paired_interval, recall, reciprocal_rank

JUDGED = {"a": 3.0, "b": 1.0, "c": 0.0}


def test_ndcg_by_hand() -> None:
    ideal = 3 + 1 / math.log2(3)
    assert ndcg(["a", "b"], JUDGED) == pytest.approx(1.0)
    assert ndcg(["x", "b", "a"], JUDGED) == pytest.approx((1 / math.log2(3) + 3 / 2) / ideal)
    assert ndcg(["x", "a"], JUDGED, 1) == 0.0
    assert ndcg(["a"], {}) == 0.0


def test_recall_and_reciprocal_rank() -> None:
    assert recall(["x", "b"], JUDGED, 2) == 0.5
    assert recall(["c"], {"c": 0.0}) == 0.0
    assert reciprocal_rank(["c", "b", "a"], JUDGED) == 0.5
    assert reciprocal_rank(["c", "b"], JUDGED, 1) == 0.0


def test_the_interval_holds_the_mean_and_is_repeatable() -> None:
    values = [0.0, 1.0, 0.5, 0.25] * 10
    low, high = interval(values)
    assert low < sum(values) / len(values) < high
    assert interval(values) == (low, high)
    assert interval([1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_paired_interval_holds_the_mean_and_is_seeded() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.random(200) < 0.9, rng.random(200) < 0.7
    mean, low, high = paired_interval(ours.astype(float), theirs.astype(float), draws=500)
    assert low < mean < high
    assert low > 0
    assert paired_interval(ours.astype(float), theirs.astype(float), draws=500) == (mean, low, high)


def test_reciprocal_ranks() -> None:
    lexical = np.array([3.0, 2.0, 0.0], dtype=np.float32)
    dense = np.array([0.9, -np.inf, 0.5], dtype=np.float32)
    fused = fused_ranks(lexical, dense)
    np.testing.assert_allclose(fused, [1.0, 61 / 62 / 2, 61 / 62 / 2], rtol=1e-6)
