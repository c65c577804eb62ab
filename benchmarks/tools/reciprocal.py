"""Reciprocal rank fusion (Cormack et al. 2009), which the convex sum is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index_data.search.fusion import Fusion

RANK_CONSTANT = 60.0


class ReciprocalRanks(Fusion):
    """Joins the two parts by their ranks; the weight counts for nothing."""

    __slots__ = ()

    def fuse(
        self, lexical: NDArray[np.float32], dense: NDArray[np.float32], known: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Fused scores in [0, 1] of candidates. `known`: those that have a vector at all."""
        return fused_ranks(lexical, np.where(known, dense, -np.inf).astype(np.float32))


def fused_ranks(lexical: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of 1 / (60 + rank), scaled so that first in both is 1 (Cormack et al. 2009).

    What a scorer did not rank (0 for BM25, -inf for dense) adds nothing.
    """
    total = np.zeros(len(lexical), dtype=np.float64)
    for scores, ranked in ((lexical, lexical > 0.0), (dense, np.isfinite(dense))):
        order = np.argsort(-scores, kind="stable")
        ranks = np.empty(len(scores), dtype=np.float64)
        ranks[order] = np.arange(1, len(scores) + 1)
        total += np.where(ranked, 1.0 / (RANK_CONSTANT + ranks), 0.0)
    return (total * (RANK_CONSTANT + 1.0) / 2.0).astype(np.float32)
