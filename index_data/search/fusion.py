"""One ranking out of two: convex on normalised scores, or by reciprocal ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RANK_CONSTANT = 60.0
SHORT, LONG = (18.0, 0.65), (84.0, 0.4)
"""Mean terms of a passage, and the dense part's best weight: over sentences and over paragraphs of
training data (`python -m benchmarks.retrieval --only weight`)."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How hybrid search joins its two parts.

    `depth` passages of each part are candidates; both scores of every candidate are exact.
    `weight` is that of the dense part in the convex sum (0 is BM25 alone, 1 dense alone).
    """

    kind: Literal["convex", "rrf"] = "convex"
    weight: float = SHORT[1]
    depth: int = 100

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0 or self.depth < 1:
            raise ValueError("a fusion weight is in [0, 1] and a depth at least 1")

    @classmethod
    def over(cls, average_length: float) -> Fusion:
        """The default over passages of this mean length, in terms.

        The longer a passage, the better BM25 and the worse its one vector: between `SHORT` and
        `LONG` the weight is linear in the logarithm of the length.
        """
        lengths = [math.log(length) for length, _ in (SHORT, LONG)]
        weights = [weight for _, weight in (SHORT, LONG)]
        return cls(weight=float(np.interp(math.log(max(average_length, 1.0)), lengths, weights)))

    def fuse(
        self, lexical: NDArray[np.float32], dense: NDArray[np.float32], known: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Fused scores in [0, 1] of candidates. `known`: those that have a vector at all."""
        if self.kind == "rrf":
            return reciprocal_rank(lexical, np.where(known, dense, -np.inf).astype(np.float32))
        return convex(lexical, dense, known, self.weight)


def convex(
    lexical: NDArray[np.float32],
    dense: NDArray[np.float32],
    known: NDArray[np.bool_],
    weight: float,
) -> NDArray[np.float32]:
    """The sum weight x dense + (1 - weight) x lexical, each in [0, 1] (Bruch et al. 2023, TM2C2).

    Each is divided by its best, with 0 as the least: BM25 gives nothing below, and a negative
    cosine means no more than that nothing is shared.
    """
    return (
        weight * _scaled(np.where(known, dense, 0.0)) + (1.0 - weight) * _scaled(lexical)
    ).astype(np.float32)


def _scaled(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    positive = np.maximum(scores.astype(np.float64), 0.0)
    top = positive.max(initial=0.0)
    return positive / top if top > 0.0 else positive


def reciprocal_rank(
    lexical: NDArray[np.float32], dense: NDArray[np.float32]
) -> NDArray[np.float32]:
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
