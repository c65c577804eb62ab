"""Complement naive Bayes over n-grams, kept up to date document by document.

    w_lt = ln(c_lt + a) - ln(c_t - c_lt + a) + k_l,   k_l = ln(C - C_l + aT) - ln(C_l + aT)
    score_l(x) = sum of x_t w_lt / (|x| |w_l|), over the terms that documents have

c_lt is the summed weight of term t in label l, c_t in all labels, C_l and C their sums over terms,
T the number of terms, a = 0.1 (Rennie et al. 2003, "Tackling the poor assumptions of naive Bayes
text classifiers", complement and weight normalisation; here against the label's own counts).

A term that a label lacks has w_lt = ln a - ln(c_t + a) + k_l: one value for all such labels. Its
sums over all terms are kept once, and each label keeps what its own terms differ by, so that
lengths, scores and changes need only the pairs that were counted.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.instant import table
from benchmarks.instant.grams import Grams
from benchmarks.instant.table import UNIT, Places, Table, Units

ALPHA = 0.1
NEVER = -1e3
"""The score of a label without documents."""

Floats = NDArray[np.float64]


class Counts:
    """One kind of n-gram of one field. Labels are small whole numbers; L is one above the last."""

    def __init__(self) -> None:
        self._table = Table()
        self._totals = np.zeros(1, dtype=np.int64)  # C_l, in units
        self._documents = np.zeros(1, dtype=np.int64)
        self._shared = np.zeros(2)  # sums over terms of the value of a label that lacks them
        self._own = np.zeros((1, 2))  # what each label's terms differ by: the sum, and of squares

    def grow(self, labels: int) -> None:
        """Make room for so many labels."""
        more = labels - len(self._totals)
        if more > 0:
            self._totals = np.pad(self._totals, (0, more))
            self._documents = np.pad(self._documents, (0, more))
            self._own = np.pad(self._own, ((0, more), (0, 0)))

    def add(self, grams: Grams, label: int, *, recount: bool = False) -> None:
        """Count one document. With `recount` the sums wait until the caller calls it, once."""
        if self._table.pairs + len(grams.digests) > table.MOST_PAIRS:
            self._table.halve()
            self.recount()
        self._change(grams, label, 1, sums=not recount)

    def remove(self, grams: Grams, label: int) -> None:
        """Take out one document that was added with this label."""
        self._change(grams, label, -1)

    def _change(self, grams: Grams, label: int, sign: int, *, sums: bool = True) -> None:
        self.grow(label + 1)
        table = self._table
        kept = table.kept(grams.digests)
        digests, units = grams.digests[kept], _units(grams.weights[kept])
        if sums:
            known = table.find(digests)
            _differ(*self._pairs(), known[known >= 0], -1.0, self._shared, self._own)
        places = table.change(digests, units, label, sign)
        if sums:
            _differ(*self._pairs(), places, 1.0, self._shared, self._own)
        self._totals[label] += sign * units.sum()
        self._documents[label] += sign

    def recount(self) -> None:
        """All sums anew from the counts: what rounding left in them is gone."""
        sizes = np.flatnonzero(self._table.size)
        self._shared[:] = 0.0
        self._own[:] = 0.0
        _differ(*self._pairs(), sizes, 1.0, self._shared, self._own)
        self._totals[:] = 0
        _sum_totals(*self._pairs(), sizes, self._totals)

    def scores(self, grams: Grams) -> Floats:
        """A text's score of each label, [L]; terms that no document has say nothing."""
        places, weights, _ = self._known(grams)
        none = np.zeros(0, dtype=np.int64)
        return self._scores(places, weights, none, -1)

    def leave_one_out(self, grams: Grams, label: int) -> Floats:
        """The scores [L] of a document that was added, as they would be without it."""
        places, weights, units = self._known(grams)
        return self._scores(places, weights, units, label)

    def _known(self, grams: Grams) -> tuple[Places, Floats, Units]:
        kept = self._table.kept(grams.digests)
        places = self._table.find(grams.digests[kept])
        found = places >= 0
        weights = grams.weights[kept][found]
        return places[found], weights, _units(weights)

    def _scores(self, places: Places, weights: Floats, units: Units, label: int) -> Floats:
        totals, documents = self._totals, self._documents
        shared, own, terms = self._shared.copy(), self._own.copy(), self._table.terms
        if label >= 0:
            _differ(*self._pairs(), places, -1.0, shared, own)
            totals, documents = totals.copy(), documents.copy()
            totals[label] -= units.sum()
            documents[label] -= 1
        sums = np.zeros(len(totals))
        base, mass, square, gone = _score(
            *self._pairs(), places, weights, units, label, shared, own, sums
        )
        left = totals.sum() * UNIT, totals * UNIT
        smooth = ALPHA * (terms - gone)
        k = np.log(left[0] - left[1] + smooth + 1e-12) - np.log(left[1] + smooth + 1e-12)
        squares = (shared[1] + own[:, 1]) + 2 * k * (shared[0] + own[:, 0]) + (terms - gone) * k**2
        lengths = np.sqrt(np.maximum(squares, 1e-9) * max(square, 1e-9))
        scores: Floats = (base + sums + k * mass) / lengths
        scores[documents == 0] = NEVER
        return scores

    def _pairs(
        self,
    ) -> tuple[Places, NDArray[np.int32], NDArray[np.int32], Units, NDArray[np.int32], Floats]:
        table = self._table
        return (
            *(table.start, table.size, table.label),
            *(table.units, table.documents, table.value),
        )


def _units(weights: Floats) -> Units:
    return np.rint(weights / UNIT).astype(np.int64)


@njit(cache=True, nogil=True)
def _differ(
    start: Places, size: NDArray[np.int32],
    label: NDArray[np.int32], units: Units, documents: NDArray[np.int32], values: Floats,
    places: Places, sign: float, shared: Floats, own: Floats,
) -> None:  # fmt: skip
    """Add what some terms give to the sums over terms, with new values for their pairs.

    With `sign` -1 subtract what they gave.
    """
    for at in places:
        first, last = start[at], start[at] + size[at]
        if first == last:
            continue
        total = np.int64(0)
        for pair in range(first, last):
            total += units[pair]
        lacking = math.log(ALPHA) - math.log(total * UNIT + ALPHA)
        shared[0] += sign * lacking
        shared[1] += sign * lacking * lacking
        for pair in range(first, last):
            if sign > 0.0:
                other = (total - units[pair]) * UNIT
                values[pair] = math.log((units[pair] * UNIT + ALPHA) / (other + ALPHA))
            value = values[pair]
            own[label[pair], 0] += sign * (value - lacking)
            own[label[pair], 1] += sign * (value * value - lacking * lacking)


@njit(cache=True, nogil=True)
def _score(
    start: Places, size: NDArray[np.int32],
    label: NDArray[np.int32], units: Units, documents: NDArray[np.int32], values: Floats,
    places: Places, weights: Floats, own_units: Units, without: int,
    shared: Floats, own: Floats, sums: Floats,
) -> tuple[float, float, float, int]:  # fmt: skip
    """The terms' part of the scores: of labels that lack them, the sum and the squares of the
    weights, and how many terms are gone.

    With a label `without` (-1: none) its pairs count as if the text were not among them, and what
    is then left is added to `shared` and `own`, from which these terms must have been subtracted.
    """
    base, mass, square, gone = 0.0, 0.0, 0.0, 0
    for i in range(len(places)):
        at = places[i]
        first, last = start[at], start[at] + size[at]
        total, left = np.int64(0), np.int64(0)
        for pair in range(first, last):
            total += units[pair]
            left += documents[pair]
        if without >= 0:
            total -= own_units[i]
            left -= 1
            gone += left == 0
        if left == 0:
            continue
        lacking = math.log(ALPHA) - math.log(total * UNIT + ALPHA)
        base += weights[i] * lacking
        mass += weights[i]
        square += weights[i] * weights[i]
        if without >= 0:
            shared[0] += lacking
            shared[1] += lacking * lacking
        if without < 0:
            for pair in range(first, last):
                sums[label[pair]] += weights[i] * (values[pair] - lacking)
            continue
        for pair in range(first, last):
            count = units[pair]
            if label[pair] == without:
                if documents[pair] == 1:
                    continue
                count -= own_units[i]
            value = math.log((count * UNIT + ALPHA) / ((total - count) * UNIT + ALPHA))
            sums[label[pair]] += weights[i] * (value - lacking)
            own[label[pair], 0] += value - lacking
            own[label[pair], 1] += value * value - lacking * lacking
    return base, mass, square, gone


@njit(cache=True, nogil=True)
def _sum_totals(
    start: Places, size: NDArray[np.int32],
    label: NDArray[np.int32], units: Units, documents: NDArray[np.int32], values: Floats,
    places: Places, totals: Units,
) -> None:  # fmt: skip
    for at in places:
        for pair in range(start[at], start[at] + size[at]):
            totals[label[pair]] += units[pair]
