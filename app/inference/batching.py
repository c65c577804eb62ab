"""How batches are cut, into parts of similar length and few sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
SIZES = (128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)  # of the parts of a batch


def similar_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of a batch in groups in which padding at most doubles the work of any one."""
    groups: list[list[int]] = []
    shortest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if not groups or lengths[i] > 2 * shortest + 8:
            groups.append([])
            shortest = lengths[i]
        groups[-1].append(i)
    return groups


def in_sizes(batch: Sequence[T]) -> Iterator[Sequence[T]]:
    """A batch in parts of the few sizes that there are (`encoder.rounded`)."""
    start = 0
    while start < len(batch):
        size = next(size for size in SIZES if size <= len(batch) - start)
        yield batch[start : start + size]
        start += size
