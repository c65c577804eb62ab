"""Bootstrap intervals of a mean, and retrieval metrics of one query each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def interval(
    values: Sequence[float] | NDArray[np.floating], *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean over items.

    For the difference of two systems give the differences item by item (a paired bootstrap).
    Raises ValueError without values.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if not n:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, 500):
        picks = rng.integers(0, n, size=(min(500, draws - start), n))
        means[start : start + len(picks)] = sample[picks].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def paired_interval(
    ours: Sequence[float] | NDArray[np.floating],
    theirs: Sequence[float] | NDArray[np.floating],
    *,
    draws: int = 10_000,
) -> tuple[float, float, float]:
    """The mean difference of two systems on the same items, and its `interval`.

    With several seeds, give each item's mean over them.
    """
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return float(difference.mean()), *interval(difference, draws=draws)


def ndcg(ranked: Sequence[str], judged: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain at k with linear gain, as trec_eval and BEIR have it.

    DCG = sum over ranks r of rel / log2(r + 1); `judged` are the relevances, absent ones 0.
    A query with nothing relevant has 0.
    """
    gains = [judged.get(name, 0.0) / math.log2(r + 1) for r, name in enumerate(ranked[:k], 1)]
    best = sorted((rel for rel in judged.values() if rel > 0), reverse=True)[:k]
    ideal = sum(rel / math.log2(r + 1) for r, rel in enumerate(best, 1))
    return sum(gains) / ideal if ideal else 0.0


def recall(ranked: Sequence[str], judged: Mapping[str, float], k: int = 10) -> float:
    """The share of the relevant documents that stand in the first k; 0 where there are none."""
    relevant = {name for name, rel in judged.items() if rel > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Mapping[str, float], k: int = 10) -> float:
    """1 / the rank of the first relevant document among the first k, else 0. Its mean is MRR@k."""
    for rank, name in enumerate(ranked[:k], 1):
        if judged.get(name, 0.0) > 0:
            return 1.0 / rank
    return 0.0
