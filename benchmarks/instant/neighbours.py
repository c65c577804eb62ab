"""What the nearest documents say: their labels, weighted by a softmax over their cosines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.instant.moments import Floats

NEAREST = 10
TEMPERATURE = 0.05
FLOOR = 1e-3
"""What every label gets beside the votes, where the nearest document's vote is 1."""
AT_ONCE = 256


def nearest(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    skip: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], Floats]:
    """Places [m, k] and cosines [m, k] of the nearest of vectors [n, d] to queries [m, d].

    `skip` [m] names one place for each query that is not looked at: its own.
    """
    k = min(NEAREST, len(vectors) - (skip is not None))
    places = np.zeros((len(queries), k), dtype=np.int64)
    cosines = np.zeros((len(queries), k))
    for start in range(0, len(queries) if k else 0, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        products = queries[part] @ vectors.T
        if skip is not None:
            products[np.arange(len(products)), skip[part]] = -np.inf
        places[part] = np.argpartition(-products, k - 1, axis=1)[:, :k]
        cosines[part] = np.take_along_axis(products, places[part], axis=1)
    return places, cosines


def log_votes(labels: NDArray[np.int64], cosines: Floats, n: int) -> Floats:
    """Labels [m, k] and cosines of the nearest -> log shares [m, n]."""
    votes = np.full((len(labels), n), FLOOR)
    if labels.shape[1]:
        weights = np.exp((cosines - cosines.max(1, keepdims=True)) / TEMPERATURE)
        np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    log_shares: Floats = np.log(votes / votes.sum(1, keepdims=True))
    return log_shares
