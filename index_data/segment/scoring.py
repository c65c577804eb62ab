"""The compiled BM25 scorer: a query sums a few columns of a segment's postings.

It takes the best k passages, the lower passage number first where scores tie, and skips passages
that are deleted or filtered out (`allowed`); an empty mask lets all through. The kernels
hold no interpreter lock. Scores are summed in double precision and compared in single, so that the
order in which terms are added cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from index_data.segment.postings import Postings
from index_data.segment.topk import (
    NO_MASK,
    Mask,
    Ranked,
    empty_heap,
    offer,
    passes,
    sort_heap,
    thread_buffer,
)

SCAN_FROM = 8
"""From an eighth of the passages on, looking over all sums is faster than finding those touched."""
BLOCK = 64
ROUNDED = 1.0 - 1e-6
"""A sum this much below a score may still be that score in single precision."""


def idf(passages: int, frequency: int) -> float:
    """Lucene's inverse document frequency: ln(1 + (N - df + 0.5) / (df + 0.5)), never negative."""
    return math.log(1.0 + (passages - frequency + 0.5) / (frequency + 0.5))


@njit(cache=True, nogil=True)
def _bm25(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float64],
    passages: NDArray[np.uint32],
    parts: NDArray[np.float32],
    allowed: Mask,
    sums: NDArray[np.float64],
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
) -> int:
    """Add up the columns, then take the best; `sums` [passages] is all zero before and after."""
    touched = 0
    for term in range(len(starts)):
        weight = weights[term]
        touched += ends[term] - starts[term]
        for entry in range(starts[term], ends[term]):
            sums[passages[entry]] += weight * parts[entry]
    if touched * SCAN_FROM < len(sums):
        size = _best_touched(starts, ends, passages, allowed, sums, best, best_scores)
    else:
        size = _best_of_all(allowed, sums, best, best_scores)
    sort_heap(best, best_scores, size)
    return size


@njit(cache=True, nogil=True)
def _best_touched(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    passages: NDArray[np.uint32],
    allowed: Mask,
    sums: NDArray[np.float64],
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
) -> int:
    """Visit what the columns touched, once each."""
    size = 0
    for term in range(len(starts)):
        for entry in range(starts[term], ends[term]):
            passage = passages[entry]
            if sums[passage] > 0.0:
                size = _consider(passage, sums, allowed, best, best_scores, size)
                sums[passage] = 0.0
    return size


@njit(cache=True, nogil=True)
def _best_of_all(
    allowed: Mask,
    sums: NDArray[np.float64],
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
) -> int:
    """Look over all sums in blocks, and into those blocks where one may be good enough."""
    size = 0
    enough = 0.0
    for start in range(0, len(sums), BLOCK):
        end = min(start + BLOCK, len(sums))
        good = 0
        for passage in range(start, end):
            good += sums[passage] > enough
        if good:
            for passage in range(start, end):
                if sums[passage] > enough:
                    size = _consider(passage, sums, allowed, best, best_scores, size)
            if size == len(best):
                enough = best_scores[0] * ROUNDED
        sums[start:end] = 0.0
    return size


@njit(cache=True, nogil=True)
def _consider(
    passage: int,
    sums: NDArray[np.float64],
    allowed: Mask,
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
    size: int,
) -> int:
    score = np.float32(sums[passage])
    if size == len(best) and score < best_scores[0]:
        return size
    if passes(allowed, passage):
        return offer(best, best_scores, size, passage, score)
    return size


@njit(cache=True, nogil=True)
def _bm25_of(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float64],
    passages: NDArray[np.uint32],
    parts: NDArray[np.float32],
    targets: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    for row in range(len(targets)):
        target = targets[row]
        total = 0.0
        for term in range(len(starts)):
            low = starts[term]
            high = ends[term]
            while low < high:
                middle = (low + high) // 2
                if passages[middle] < target:
                    low = middle + 1
                else:
                    high = middle
            if low < ends[term] and passages[low] == target:
                total += weights[term] * parts[low]
        out[row] = total


@dataclass(frozen=True, slots=True)
class CompiledScorer:
    """BM25 over some postings; `parts` is their `postings.saturation`."""

    postings: Postings
    parts: NDArray[np.float32]

    def top(self, weights: Mapping[str, float], k: int, allowed: Mask = NO_MASK) -> Ranked:
        """The k best passages for `weights` (term -> idf times its count in the query).

        Passages with no query term are left out.
        """
        postings = self.postings
        starts, ends, factors = self._columns(weights)
        best, scores = empty_heap(k, postings.size)
        if not len(starts) or not len(best):
            return best[:0], scores[:0]
        sums = thread_buffer("sums", postings.size, np.float64)
        size = _bm25(
            starts, ends, factors, postings.passages, self.parts, allowed, sums, best, scores
        )
        return best[:size], scores[:size]

    def of(self, weights: Mapping[str, float], passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """The scores of these passages, 0 where one has no query term. [passages]"""
        starts, ends, factors = self._columns(weights)
        scores = np.zeros(len(passages), dtype=np.float32)
        _bm25_of(starts, ends, factors, self.postings.passages, self.parts, passages, scores)
        return scores

    def _columns(
        self, weights: Mapping[str, float]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Where the postings of each known term begin and end, and its weight."""
        terms, indptr = self.postings.terms, self.postings.indptr
        known = [(terms[term], weight) for term, weight in weights.items() if term in terms]
        columns = np.array([column for column, _ in known], dtype=np.int64)
        factors = np.array([weight for _, weight in known], dtype=np.float64)
        return indptr[columns], indptr[columns + 1], factors
