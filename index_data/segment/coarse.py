"""Vectors at 8 bits beside those at 16: a scan of half the bytes that finds the same passages.

Every row x is kept as x' = scale * codes with the length of what was lost, |x - x'|. By the
inequality of Cauchy and Schwarz the product of a query q with x is within |q| |x - x'| of that with
x'. So a passage whose upper bound lies below the k best lower bounds cannot be among the k best;
the few that remain are compared by their exact product. The query is rounded to 16 bits, whose loss
is added to the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
from index_data.segment.vectors import Half, dot, from_half, widened

Codes = NDArray[np.int8]
ROWS_AT_ONCE = 8_192
CODE_MAX = 127
QUERY_MAX = 32_767  # less where sums would go over 32 bits: from 517 dimensions on
SLACK = np.float32(1e-4)
"""For the rounding of sums in single precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Coarse:
    """The rows at 8 bits."""

    codes: Codes  # [passages, dim]
    scales: NDArray[np.float32]  # [passages, 2]: of the codes, and the length of what was lost


def coarse_rows(half: Half, codes: Codes, scales: NDArray[np.float32]) -> None:
    """Fill `codes` and `scales` (see `Coarse`) from the vectors at 16 bits, a block at a time."""
    for start in range(0, len(half), ROWS_AT_ONCE):
        rows = from_half(half[start : start + ROWS_AT_ONCE])
        scale = np.abs(rows).max(axis=1, initial=0.0) / CODE_MAX
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        code = np.rint(rows * inverse[:, None])
        lost = np.linalg.norm(rows - code * scale[:, None], axis=1)
        codes[start : start + len(rows)] = code.astype(np.int8)
        scales[start : start + len(rows)] = np.stack([scale, lost], axis=1)


@njit(cache=True, nogil=True)
def _rough(query: NDArray[np.int16], row: NDArray[np.int8]) -> np.int32:
    total = np.int32(0)
    for i in range(len(query)):
        total = np.int32(total + np.int32(np.int32(row[i]) * np.int32(query[i])))
    return total


@njit(cache=True, nogil=True)
def _scan(
    query: NDArray[np.int16],
    unit: np.float32,
    length: np.float32,
    slack: np.float32,
    codes: Codes,
    scales: NDArray[np.float32],
    allowed: Mask,
    upper: NDArray[np.float32],
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
) -> np.float32:
    """Fill `upper` [passages] with upper bounds; returns a lower bound of the k-th best score."""
    size = 0
    k = len(best)
    for passage in range(len(codes)):
        score = np.float32(_rough(query, codes[passage])) * scales[passage, 0] * unit
        loss = scales[passage, 1] * length + slack
        upper[passage] = score + loss
        lower = score - loss
        if size == k and lower < best_scores[0]:
            continue
        if passes(allowed, passage):
            size = offer(best, best_scores, size, passage, lower)
    return best_scores[0] if size == k else np.float32(-np.inf)


@njit(cache=True, nogil=True)
def _rescore(
    wide_query: NDArray[np.float32],
    vectors: Half,
    least: np.float32,
    upper: NDArray[np.float32],
    allowed: Mask,
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
) -> int:
    size = 0
    for passage in range(len(upper)):
        if upper[passage] >= least and passes(allowed, passage):
            score = dot(wide_query, vectors[passage])
            size = offer(best, best_scores, size, passage, score)
    sort_heap(best, best_scores, size)
    return size


def coarse_top(
    query: NDArray[np.float32],
    coarse: Coarse,
    vectors: Half,
    k: int,
    allowed: Mask = NO_MASK,
) -> Ranked:
    """The k nearest to `query` [dim]: the passages, order and scores of `dense_top`."""
    best, scores = empty_heap(k, len(vectors))
    if not len(best):
        return best, scores
    most = min(QUERY_MAX, (2**31 - 1) // (CODE_MAX * len(query)))
    unit = np.float32(max(np.abs(query).max(initial=0.0), 1e-30) / most)
    rounded = np.rint(query / unit).astype(np.int16)
    length = np.float32(np.linalg.norm(query))
    lost = np.linalg.norm(query - rounded * unit)
    slack = np.float32(1.01 * lost + SLACK)
    upper = thread_buffer("upper", len(vectors), np.float32)
    least = _scan(
        rounded, unit, length, slack, coarse.codes, coarse.scales, allowed, upper, best, scores
    )
    size = _rescore(widened(query), vectors, least, upper, allowed, best, scores)
    return best[:size], scores[:size]
