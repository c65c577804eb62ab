"""The vectors of the last inputs that were answered: what a document can be compared with."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """One input of one prediction, of a field."""

    prediction_id: str
    index: int
    field: str


class RecentVectors:
    """The vectors of ``limit`` inputs in half precision; the oldest is written over.

    They are of one encoder: the first of another empties them. Safe to use from several threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._encoder = ""
        self._places: list[Place | None] = []
        self._vectors = np.zeros((0, 0), np.float16)
        self._next = 0

    def add(self, place: Place, vector: Vectors, encoder: str) -> None:
        """Keep the vector [dim], of length 1, that the encoder of this SHA-256 made of an input."""
        with self._lock:
            if encoder != self._encoder:
                self._encoder = encoder
                self._places = [None] * self._limit
                self._vectors = np.zeros((self._limit, len(vector)), np.float16)
                self._next = 0
            self._places[self._next] = place
            self._vectors[self._next] = vector
            self._next = (self._next + 1) % self._limit

    def forget(self, names: Collection[str]) -> None:
        """Overwrite the vectors of these predictions."""
        with self._lock:
            for row, place in enumerate(self._places):
                if place is not None and place.prediction_id in names:
                    self._places[row] = None
                    self._vectors[row] = 0

    def nearest(self, passages: Vectors, field: str, encoder: str) -> list[Place]:
        """All places of a field, by their cosine to the nearest of ``passages`` [n, dim]."""
        with self._lock:
            if encoder != self._encoder:
                return []
            places, vectors = list(self._places), self._vectors
        # What is written over meanwhile is ranked by its new vector: this is a choice, no answer.
        rows = [i for i, place in enumerate(places) if place is not None and place.field == field]
        if not rows:
            return []
        cosines = (vectors[rows].astype(np.float32) @ passages.T).max(axis=1)
        nearest = (places[rows[i]] for i in np.argsort(-cosines, kind="stable"))
        return [place for place in nearest if place is not None]
