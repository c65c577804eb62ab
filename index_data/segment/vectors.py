"""Vectors of passages in half precision, and the exact product of a query with all of them.

A row of zeros means that the passage has no vector (yet). Vectors are L2-normalised, so the product
is the cosine, and every element is in [-1, 1]: no infinity, no NaN. So the kernel may widen half
precision with integer shifts, which compiles to vector code on any processor: the bits of a
half, moved 13 to the left with the sign kept on top, are the single that is 2^-112 times as large.
The query is made as many times larger beforehand: products that are subnormal cost an Intel core
a hundred cycles each.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from index_data.segment.topk import NO_MASK, Mask, Ranked, empty_heap, offer, passes, sort_heap

Half = NDArray[np.int16]
"""The bits of IEEE half precision, [passages, dim]."""

_WIDEN = np.float32(2.0**112)
_SIGN_AND_NUMBER = np.int32(-0x70002000)  # 0x8FFFE000: without what the sign bit drags along


def to_half(vectors: NDArray[np.float32]) -> Half:
    """Round single precision to the stored form; raises ValueError beyond [-1, 1] (with slack)."""
    if vectors.ndim != 2 or (vectors.size and not np.abs(vectors).max() <= 1.001):
        raise ValueError("vectors must be a matrix of normalised rows")
    return np.ascontiguousarray(vectors, dtype=np.float32).astype(np.float16).view(np.int16)


def from_half(half: Half) -> NDArray[np.float32]:
    """The stored form in single precision, same shape."""
    return half.view(np.float16).astype(np.float32)


def present(half: Half) -> Mask:
    """Which rows hold a vector; the empty mask when all do."""
    mask = np.zeros(len(half), dtype=np.uint8)
    step = 65_536  # bounds what the comparison holds in memory
    for start in range(0, len(half), step):
        mask[start : start + step] = half[start : start + step].any(axis=1)
    return NO_MASK if mask.all() else mask


def widened(query: NDArray[np.float32]) -> NDArray[np.float32]:
    """The query as `dot` takes it."""
    return np.ascontiguousarray(query * _WIDEN, dtype=np.float32)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def dot(wide_query: NDArray[np.float32], row: NDArray[np.int16]) -> np.float32:
    """The product of a query (see `widened`) with a row."""
    total = np.float32(0.0)
    for i in range(len(wide_query)):
        wide = np.int32(np.int32(np.int32(row[i]) << np.int32(13)) & _SIGN_AND_NUMBER)
        total += wide_query[i] * wide.view(np.float32)
    return total


@njit(cache=True, nogil=True)
def _dense(
    wide_query: NDArray[np.float32],
    vectors: Half,
    allowed: Mask,
    best: NDArray[np.int64],
    best_scores: NDArray[np.float32],
) -> int:
    size = 0
    k = len(best)
    for passage in range(len(vectors)):
        score = dot(wide_query, vectors[passage])
        if size == k and score < best_scores[0]:
            continue
        if passes(allowed, passage):
            size = offer(best, best_scores, size, passage, score)
    sort_heap(best, best_scores, size)
    return size


@njit(cache=True, nogil=True)
def _dense_of(
    wide_query: NDArray[np.float32],
    vectors: Half,
    passages: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    for row in range(len(passages)):
        out[row] = dot(wide_query, vectors[passages[row]])


def dense_top(
    query: NDArray[np.float32],
    vectors: Half,
    k: int,
    allowed: Mask = NO_MASK,
) -> Ranked:
    """The k allowed passages whose vectors are nearest to `query` [dim] by cosine."""
    best, scores = empty_heap(k, len(vectors))
    if not len(best):
        return best, scores
    size = _dense(widened(query), vectors, allowed, best, scores)
    return best[:size], scores[:size]


def dense_of(
    query: NDArray[np.float32], vectors: Half, passages: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The cosines of these passages, 0 for one without a vector. [passages]"""
    out = np.zeros(len(passages), dtype=np.float32)
    _dense_of(widened(query), vectors, passages, out)
    return out
