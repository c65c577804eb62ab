"""The documents of an instant head: ids, texts, vectors, and labels as small numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.instant.grams import MOST_CHARS

FIRST_ROWS = 64


class Row(NamedTuple):
    """One document; the vector is [d]."""

    text: str
    vector: NDArray[np.float32]
    label: int


class Rows:
    """Rows side by side, in no order; the last takes the place of one that goes.

    A label keeps its number while documents have it. A number that no document has is given to the
    next new label.
    """

    def __init__(self, width: int) -> None:
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.names: list[str] = []
        self.number: dict[str, int] = {}
        self._place: dict[str, int] = {}
        self._free: list[int] = []
        self._vectors = np.zeros((FIRST_ROWS, width), dtype=np.float32)
        self._labels = np.zeros(FIRST_ROWS, dtype=np.int64)
        self._readable = np.zeros(FIRST_ROWS, dtype=np.bool_)
        self._counts: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: str) -> bool:
        return id in self._place

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[n, d]."""
        return self._vectors[: len(self.ids)]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Numbers of labels, [n]."""
        return self._labels[: len(self.ids)]

    @property
    def readable(self) -> bool:
        """Whether the encoder can read at least half of the texts."""
        return bool(self._readable[: len(self.ids)].mean() >= 0.5) if self.ids else True

    def put(
        self, id: str, text: str, vector: NDArray[np.float32], label: str, readable: bool
    ) -> int:
        """Take a document whose id is new; returns the number of its label."""
        place = len(self.ids)
        if place == len(self._labels):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._labels = np.concatenate([self._labels, np.zeros_like(self._labels)])
            self._readable = np.concatenate([self._readable, np.zeros_like(self._readable)])
        if label not in self.number:
            self._name(label)
        number = self.number[label]
        self._counts[number] += 1
        self.ids.append(id)
        self.texts.append(text[:MOST_CHARS])
        self._place[id] = place
        self._vectors[place], self._labels[place] = vector, number
        self._readable[place] = readable
        return number

    def take(self, id: str) -> Row:
        """Take a document out. Raises KeyError where there is none of this id."""
        place, last = self._place.pop(id), len(self.ids) - 1
        row = Row(self.texts[place], self._vectors[place].copy(), int(self._labels[place]))
        if place != last:
            self.ids[place], self.texts[place] = self.ids[last], self.texts[last]
            self._vectors[place], self._labels[place] = self._vectors[last], self._labels[last]
            self._readable[place] = self._readable[last]
            self._place[self.ids[place]] = place
        self.ids.pop()
        self.texts.pop()
        self._counts[row.label] -= 1
        if not self._counts[row.label]:
            del self.number[self.names[row.label]]
            self._free.append(row.label)
        return row

    def _name(self, label: str) -> None:
        if self._free:
            number = self._free.pop()
            self.names[number] = label
        else:
            number = len(self.names)
            self.names.append(label)
            self._counts.append(0)
        self.number[label] = number
