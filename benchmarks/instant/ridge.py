"""Ridge regression of one-hot labels on vectors, the intercept unpenalised.

With m the mean, P = (scatter + penalty I)^-1 and C_l = sum of label l's vectors - n_l m:

    score_l(v) = n_l / n + C_l' P (v - m)

Left out exactly by the hat matrix: h = 1 / n + (v - m)' P (v - m), and the residual grows by
1 / (1 - h) (Allen 1974, "The relationship between variable selection and data augmentation").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.instant.moments import Floats, Moments, inverse, update_inverse

PENALTIES = (0.3, 1.0, 3.0)
MOST_LEVERAGE = 1.0 - 1e-9


class Ridge:
    """Solved for one penalty; `moments` is shared, and changed by its owner after `change`."""

    def __init__(self, moments: Moments, penalty: float = 1.0) -> None:
        self.moments = moments
        self.solve(penalty)

    def solve(self, penalty: float) -> None:
        """Anew, from the sums."""
        self.penalty = penalty
        self.inverse = inverse(self.moments.scatter(), penalty)

    def change(self, vector: Floats, sign: int) -> None:
        """Follow one document that is about to come (`sign` 1) or go (-1)."""
        n = self.moments.n
        if n + sign > 0 and n > 0:
            update_inverse(self.inverse, vector - self.moments.mean, sign * n / (n + sign))

    def scores(self, vectors: Floats) -> Floats:
        """Vectors [m, d] -> [m, L], near 1 for the label and 0 for the others."""
        sums = self.moments
        along = (vectors - sums.mean) @ self.inverse
        share = sums.counts / max(sums.n, 1)
        scores: Floats = along @ sums.sums.T - np.outer(along @ sums.mean, sums.counts) + share
        return scores

    def leave_one_out(self, vectors: Floats, labels: NDArray[np.int64]) -> Floats:
        """The scores [m, L] of documents that are among the sums, each without itself."""
        scores = self.scores(vectors)
        centred = vectors - self.moments.mean
        leverage = 1.0 / self.moments.n + ((centred @ self.inverse) * centred).sum(1)
        leverage = np.minimum(leverage, MOST_LEVERAGE)
        truth = np.zeros_like(scores)
        truth[np.arange(len(labels)), labels] = 1.0
        left_out: Floats = (scores - leverage[:, None] * truth) / (1.0 - leverage)[:, None]
        return left_out
