"""The best k of a segment in a bounded heap, with one order for every scorer.

A higher score is better; of equal scores, the lower passage number.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

NO_MASK: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
"""Lets every passage through."""
NO_MASK.flags.writeable = False

Mask = NDArray[np.uint8]
Ranked = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Passage numbers and their scores, best first."""

_LOCAL = threading.local()


def empty_heap(k: int, passages: int) -> Ranked:
    """Room for the best k of so many passages."""
    size = min(k, passages)
    return np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)


def thread_buffer(name: str, size: int, dtype: type[np.generic]) -> NDArray[Any]:
    """This thread's array of a name. [size] New memory is zero; else it is as it was left."""
    buffer: NDArray[Any] | None = getattr(_LOCAL, name, None)
    if buffer is None or len(buffer) < size:
        buffer = np.zeros(size + size // 8, dtype=dtype)
        setattr(_LOCAL, name, buffer)
    return buffer[:size]


def intersection(*masks: Mask) -> Mask:
    """One mask, read-only, that lets through what all of these do."""
    given = [mask for mask in masks if len(mask)]
    if len(given) < 2:
        return given[0] if given else NO_MASK
    mask: Mask = np.logical_and.reduce(given).astype(np.uint8)
    mask.flags.writeable = False
    return mask


@njit(cache=True, nogil=True, inline="always")
def passes(mask: Mask, passage: int) -> bool:
    """Whether a mask lets a passage through."""
    return not len(mask) or bool(mask[passage])


@njit(cache=True, nogil=True, inline="always")
def better(score: np.float32, passage: int, other_score: np.float32, other_passage: int) -> bool:
    """Whether the first entry stands before the other."""
    return bool(score > other_score or (score == other_score and passage < other_passage))


@njit(cache=True, nogil=True)
def sift_down(passages: NDArray[np.int64], scores: NDArray[np.float32], size: int) -> None:
    """Restore the heap whose root is the worst entry kept."""
    here = 0
    while True:
        worst = here
        for child in (2 * here + 1, 2 * here + 2):
            if child < size and better(
                scores[worst], passages[worst], scores[child], passages[child]
            ):
                worst = child
        if worst == here:
            return
        scores[here], scores[worst] = scores[worst], scores[here]
        passages[here], passages[worst] = passages[worst], passages[here]
        here = worst


@njit(cache=True, nogil=True)
def offer(
    passages: NDArray[np.int64],
    scores: NDArray[np.float32],
    size: int,
    passage: int,
    score: np.float32,
) -> int:
    """Put an entry into the heap of the best; returns the heap's new size."""
    if size < len(passages):
        here = size
        passages[here] = passage
        scores[here] = score
        while here > 0:
            parent = (here - 1) // 2
            if not better(scores[parent], passages[parent], scores[here], passages[here]):
                break
            scores[here], scores[parent] = scores[parent], scores[here]
            passages[here], passages[parent] = passages[parent], passages[here]
            here = parent
        return size + 1
    if better(score, passage, scores[0], passages[0]):
        passages[0] = passage
        scores[0] = score
        sift_down(passages, scores, size)
    return size


@njit(cache=True, nogil=True)
def sort_heap(passages: NDArray[np.int64], scores: NDArray[np.float32], size: int) -> None:
    """Empty the heap from its end, which leaves the best entry first."""
    for end in range(size - 1, 0, -1):
        scores[0], scores[end] = scores[end], scores[0]
        passages[0], passages[end] = passages[end], passages[0]
        sift_down(passages, scores, end)
