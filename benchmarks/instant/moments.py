"""Sums over labelled vectors, from which ridge regression and discriminant analysis are solved.

Everything is a sum over documents, so that one can be added or taken out. n documents, L labels, d
the vectors' width.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FIRST_LABELS = 8


class Moments:
    """Counts [L], sums of vectors by label [L, d], their Gram matrix [d, d]; double precision."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.counts = np.zeros(FIRST_LABELS)
        self.sums = np.zeros((FIRST_LABELS, width))
        self.gram = np.zeros((width, width))
        self.sum = np.zeros(width)

    @property
    def mean(self) -> Floats:
        """Of all vectors, [d]; 0 of none."""
        mean: Floats = self.sum / max(self.n, 1)
        return mean

    def means(self) -> Floats:
        """Of each label's vectors, [L, d]; 0 of none."""
        means: Floats = self.sums / np.maximum(self.counts, 1.0)[:, None]
        return means

    def add(self, vector: Floats, label: int, sign: int = 1) -> None:
        """One document more, or (`sign` -1) one less."""
        self.grow(label + 1)
        self.n += sign
        self.counts[label] += sign
        self.sums[label] += sign * vector
        if not self.counts[label]:
            self.sums[label] = 0.0
        self.sum += sign * vector
        _add_outer(self.gram, vector, float(sign))

    def add_many(self, vectors: Floats, labels: NDArray[np.int64]) -> None:
        """Vectors [m, d] of labels [m] at once."""
        self.grow(int(labels.max(initial=-1)) + 1)
        self.n += len(labels)
        np.add.at(self.counts, labels, 1.0)
        np.add.at(self.sums, labels, vectors)
        self.sum += vectors.sum(0)
        self.gram += vectors.T @ vectors

    def grow(self, labels: int) -> None:
        """Make room for so many labels."""
        if labels > len(self.counts):
            more = max(labels, 2 * len(self.counts)) - len(self.counts)
            self.counts = np.pad(self.counts, (0, more))
            self.sums = np.pad(self.sums, ((0, more), (0, 0)))

    def scatter(self) -> Floats:
        """Around the mean of all, [d, d]."""
        scatter: Floats = self.gram - self.n * np.outer(self.mean, self.mean)
        return scatter

    def scatter_within(self) -> Floats:
        """Around the mean of each document's label, [d, d]."""
        means = self.means()
        within: Floats = self.gram - (means * self.counts[:, None]).T @ means
        return within


def inverse(matrix: Floats, penalty: float) -> Floats:
    """Of a scatter matrix [d, d] with `penalty` added to its diagonal."""
    inverted: Floats = np.linalg.inv(matrix + penalty * np.eye(len(matrix))).astype(np.float64)
    return inverted


def update_inverse(inverse: Floats, vector: Floats, factor: float) -> tuple[Floats, float]:
    """Make it the inverse of the matrix plus `factor` v v' (Sherman and Morrison 1950).

    Returns u and c: the new inverse is the old one less c u u'.
    """
    along = inverse @ vector
    scale = factor / (1.0 + factor * float(vector @ along))
    _add_outer(inverse, along, -scale)
    return along, scale


@njit(cache=True, nogil=True)
def _add_outer(matrix: Floats, vector: Floats, factor: float) -> None:
    """Add `factor` v v' in place, without a second matrix."""
    for i in range(len(vector)):
        at = factor * vector[i]
        for j in range(len(vector)):
            matrix[i, j] += at * vector[j]
