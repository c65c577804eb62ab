"""BM25 with Lucene's idf as a Whoosh weighting: Whoosh itself can score what we compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from whoosh.matching import Matcher
from whoosh.scoring import BaseScorer, WeightingModel
from whoosh.searching import Searcher as WhooshSearcher

from index_data.segment.postings import K1, B


@dataclass(frozen=True)
class LuceneBM25(WeightingModel):  # type: ignore[misc]
    """Sums idf(t) tf / (tf + k1 (1 - b + b |d| / avg)), Lucene's form.

    `weights` holds the idf of each query term over all segments (times its count in the query),
    which one Whoosh index cannot know.
    `lengths` are the exact lengths: Whoosh keeps them in one byte, which rounds from 11 terms on.
    """

    weights: Mapping[str, float]
    lengths: NDArray[np.uint32]
    average_length: float

    def scorer(
        self, searcher: WhooshSearcher, fieldname: str, text: bytes, qf: int = 1
    ) -> LuceneBM25Scorer:
        """The scorer of one term."""
        return LuceneBM25Scorer(self.weights[text.decode()], self.lengths, self.average_length)


class LuceneBM25Scorer(BaseScorer):  # type: ignore[misc]
    """Scores the current posting of a matcher."""

    def __init__(self, weight: float, lengths: NDArray[np.uint32], average_length: float) -> None:
        self._weight = weight
        self._lengths = lengths
        self._average = average_length if average_length > 0 else 1.0

    def score(self, matcher: Matcher) -> float:
        """What the term adds to the passage that the matcher stands on."""
        tf = float(matcher.weight())
        length = float(self._lengths[matcher.id()])
        # Single precision as in the compiled columns, so that both round alike.
        part = np.float32(tf / (tf + K1 * (1.0 - B + B * length / self._average)))
        return self._weight * float(part)
