"""Retrieval metrics of one query each, and bootstrap intervals over queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


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


def bootstrap(
    values: NDArray[np.floating] | Sequence[float], *, draws: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over queries.

    For the difference of two systems give the differences query by query (a paired bootstrap).
    Raises ValueError without values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        raise ValueError("no values to resample")
    random = np.random.default_rng(seed)
    means = np.array(
        [sample[random.integers(0, len(sample), len(sample))].mean() for _ in range(draws)]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
