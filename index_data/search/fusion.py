"""One ranking out of two: a convex sum of normalised scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORT, LONG = (18.0, 0.65), (84.0, 0.4)
"""Mean terms of a passage, and the dense part's best weight: over sentences and over paragraphs of
training data (`python -m benchmarks.retrieval --only weight`)."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How hybrid search joins its two parts.

    `depth` passages of each part are candidates; both scores of every candidate are exact.
    `weight` is that of the dense part in the convex sum (0 is BM25 alone, 1 dense alone).
    """

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
