"""Counts by term and label in flat arrays: a hash table of terms, and each term's labels in a row.

A term's pairs (label, sum of weights, documents) lie together, with room that doubles when it is
full; what is left behind goes when the arrays are next rebuilt. Sums are whole numbers of `UNIT`,
so that what was added can be taken out without a trace and in any order. Each pair has room for a
value that its reader computes from the sums. 24 to 96 bytes a pair, 48 to 96 a term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNIT = 2.0**-30
FIRST = 1 << 10
MOST_PAIRS = 1 << 23
"""Beyond it every second term is left out, chosen by digest: 8 million pairs, 0.8 GB at most."""

Digests = NDArray[np.uint64]
Places = NDArray[np.int64]
Units = NDArray[np.int64]


class Table:
    """The pairs of one kind of n-gram. `terms` and `pairs` count those that have documents."""

    def __init__(self) -> None:
        self.bits = 0
        self.terms = self.pairs = 0
        self._allocate(FIRST, FIRST)

    def _allocate(self, places: int, room: int) -> None:
        self.keys = np.zeros(places, dtype=np.uint64)
        self.start = np.zeros(places, dtype=np.int64)
        self.size = np.zeros(places, dtype=np.int32)
        self.room = np.zeros(places, dtype=np.int32)
        self.label = np.zeros(room, dtype=np.int32)
        self.units = np.zeros(room, dtype=np.int64)
        self.documents = np.zeros(room, dtype=np.int32)
        self.value = np.zeros(room)
        self.used = self.end = 0

    def kept(self, digests: Digests) -> NDArray[np.bool_]:
        """Which digests are counted at all."""
        kept: NDArray[np.bool_] = (digests & np.uint64((1 << self.bits) - 1)) == 0
        return kept

    def find(self, digests: Digests) -> Places:
        """The place of each term; -1 where it was never seen."""
        return _find(self.keys, digests)

    def change(self, digests: Digests, units: Units, label: int, sign: int) -> Places:
        """Add a document's terms to a label, or take them out; returns the places of the terms."""
        if self.pairs + len(digests) > MOST_PAIRS:
            raise MemoryError("halve() first")
        found = self.find(digests)
        room = _room_needed(self.size[found[found >= 0]], len(digests))
        full = 2 * (self.used + len(digests)) > len(self.keys)
        if full or self.end + room > len(self.label):
            self._rebuild(len(digests), room)
        places, self.used = _insert(self.keys, digests, self.used)
        self.end, terms, pairs = _change(
            self.start, self.size, self.room, self.label, self.units, self.documents,
            places, units, label, sign, self.end,
        )  # fmt: skip
        self.terms += terms
        self.pairs += pairs
        return places

    def halve(self) -> None:
        """Keep every second term; the counts of those kept stay exact."""
        self.bits += 1
        self._rebuild(0, 0)

    def _rebuild(self, terms: int, room: int) -> None:
        """Copy what has documents, with space for as much again and so much more."""
        keys, start, size = self.keys, self.start, self.size
        old: list[NDArray[Any]] = [self.label, self.units, self.documents, self.value]
        live = (self.size > 0) & self.kept(self.keys)
        self.terms, self.pairs = int(live.sum()), int(self.size[live].sum())
        places = 1 << int(4 * (self.terms + terms) + FIRST).bit_length()
        self._allocate(places, 2 * (self.pairs + room) + FIRST)
        inserted, self.used = _insert(self.keys, keys[live], 0)
        self.start[inserted] = np.cumsum(size[live]) - size[live]
        self.size[inserted] = self.room[inserted] = size[live]
        self.end = int(size[live].sum())
        new: list[NDArray[Any]] = [self.label, self.units, self.documents, self.value]
        for before, now in zip(old, new, strict=True):
            _copy(start[live], size[live], before, now)


@njit(cache=True, nogil=True)
def _find(keys: Digests, digests: Digests) -> Places:
    out = np.empty(len(digests), dtype=np.int64)
    mask = len(keys) - 1
    for i in range(len(digests)):
        at = np.int64(digests[i] >> np.uint64(20)) & mask
        while keys[at] != 0 and keys[at] != digests[i]:
            at = (at + 1) & mask
        out[i] = at if keys[at] == digests[i] else -1
    return out


@njit(cache=True, nogil=True)
def _insert(keys: Digests, digests: Digests, used: int) -> tuple[Places, int]:
    out = np.empty(len(digests), dtype=np.int64)
    mask = len(keys) - 1
    for i in range(len(digests)):
        at = np.int64(digests[i] >> np.uint64(20)) & mask
        while keys[at] != 0 and keys[at] != digests[i]:
            at = (at + 1) & mask
        used += keys[at] == 0
        keys[at] = digests[i]
        out[i] = at
    return out, used


def _room_needed(sizes: NDArray[np.int32], terms: int) -> int:
    """At most: each term that is known moves to twice its size, each new one takes 1."""
    return terms + 4 * int(sizes.sum(dtype=np.int64) + len(sizes))


@njit(cache=True, nogil=True)
def _change(
    start: Places, size: NDArray[np.int32], room: NDArray[np.int32],
    label: NDArray[np.int32], units: Units, documents: NDArray[np.int32],
    places: Places, added: Units, of: int, sign: int, end: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Returns the new end of the pairs, and by how much terms and pairs changed."""
    terms, pairs = 0, 0
    for i in range(len(places)):
        at = places[i]
        pair = start[at]
        last = pair + size[at]
        while pair < last and label[pair] != of:
            pair += 1
        if pair == last:
            if size[at] == room[at]:  # move to the end, where there is twice the room
                for j in range(size[at]):
                    label[end + j] = label[start[at] + j]
                    units[end + j] = units[start[at] + j]
                    documents[end + j] = documents[start[at] + j]
                start[at] = end
                room[at] = max(1, 2 * room[at])
                end += room[at]
                pair = start[at] + size[at]
            label[pair], units[pair], documents[pair] = of, 0, 0
            size[at] += 1
            terms += size[at] == 1
            pairs += 1
        units[pair] += sign * added[i]
        documents[pair] += sign
        if documents[pair] == 0:
            size[at] -= 1
            last = start[at] + size[at]
            label[pair], units[pair] = label[last], units[last]
            documents[pair] = documents[last]
            terms -= size[at] == 0
            pairs -= 1
    return end, terms, pairs


@njit(cache=True, nogil=True)
def _copy(start: Places, size: NDArray[np.int32], before: NDArray[Any], now: NDArray[Any]) -> None:
    """Each term's stretch behind the one before."""
    end = 0
    for i in range(len(start)):
        now[end : end + size[i]] = before[start[i] : start[i] + size[i]]
        end += size[i]
