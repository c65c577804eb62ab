"""The compiled BM25 scorer: a query sums a few columns of a segment's postings.

It takes the best k passages, the lower passage number first where scores tie, and skips passages
that are deleted (`live`) or filtered out (`allowed`); an empty mask lets all through. The kernels
hold no interpreter lock. Scores are summed in double precision and compared in single, so that the
order in which terms are added cannot show.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

from index_data.segment.postings import Postings
from index_data.segment.topk import NO_MASK, Mask, Ranked, offer, sort_heap

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
    live: Mask,
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
        size = _best_touched(starts, ends, passages, live, allowed, sums, best, best_scores)
    else:
        size = _best_of_all(live, allowed, sums, best, best_scores)
    sort_heap(best, best_scores, size)
    return size


@njit(cache=True, nogil=True)
def _best_touched(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    passages: NDArray[np.uint32],
    live: Mask,
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
                size = _consider(passage, sums, live, allowed, best, best_scores, size)
                sums[passage] = 0.0
    return size


@njit(cache=True, nogil=True)
def _best_of_all(
    live: Mask,
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
                    size = _consider(passage, sums, live, allowed, best, best_scores, size)
            if size == len(best):
                enough = best_scores[0] * ROUNDED
        sums[start:end] = 0.0
    return size


@njit(cache=True, nogil=True)
def _consider(
    passage: int,
    sums: NDArray[np.float64],
    live: Mask,
    allowed: Mask,
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
    size: int,
) -> int:
    score = np.float32(sums[passage])
    if size == len(best) and score < best_scores[0]:
        return size
    if (len(live) and not live[passage]) or (len(allowed) and not allowed[passage]):
        return size
    return offer(best, best_scores, size, passage, score)


@njit(cache=True, nogil=True)
def _bm25_of(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float64],
    passages: NDArray[np.uint32],
    parts: NDArray[np.float32],
    wanted: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    for row in range(len(wanted)):
        target = wanted[row]
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


_LOCAL = threading.local()


def _sums(size: int) -> NDArray[np.float64]:
    """This thread's accumulator; the kernel leaves it as it found it, all zero."""
    sums: NDArray[np.float64] | None = getattr(_LOCAL, "sums", None)
    if sums is None or len(sums) < size:
        sums = np.zeros(size + size // 8, dtype=np.float64)
        _LOCAL.sums = sums
    return sums


def _columns(
    postings: Postings, weights: Mapping[str, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    terms = postings.terms
    known = [(terms[term], weight) for term, weight in weights.items() if term in terms]
    columns = np.array([column for column, _ in known], dtype=np.int64)
    indptr = postings.indptr
    return (
        indptr[columns],
        indptr[columns + 1],
        np.array([weight for _, weight in known], dtype=np.float64),
    )


def bm25_top(
    postings: Postings,
    parts: NDArray[np.float32],
    weights: Mapping[str, float],
    k: int,
    live: Mask = NO_MASK,
    allowed: Mask = NO_MASK,
) -> Ranked:
    """The k best passages for `weights` (term -> idf times its count in the query).

    `parts` is `postings.saturation` of the same postings. Passages with no query term are left out.
    """
    starts, ends, factors = _columns(postings, weights)
    best = np.empty(min(k, postings.size), dtype=np.int64)
    scores = np.empty(len(best), dtype=np.float32)
    if not len(starts) or not len(best):
        return best[:0], scores[:0]
    size = _bm25(
        starts,
        ends,
        factors,
        postings.passages,
        parts,
        live,
        allowed,
        _sums(postings.size)[: postings.size],
        best,
        scores,
    )
    return best[:size], scores[:size]


def bm25_of(
    postings: Postings,
    parts: NDArray[np.float32],
    weights: Mapping[str, float],
    wanted: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The scores of the passages `wanted`, 0 where one has no query term. [wanted]"""
    starts, ends, factors = _columns(postings, weights)
    out = np.zeros(len(wanted), dtype=np.float32)
    _bm25_of(starts, ends, factors, postings.passages, parts, wanted, out)
    return out
