"""What was retrieved, as the network takes it: hits, and their padded arrays.

Sizes, here and in `fusion`, `neighbours`, `gate` and `network`: b texts, t tokens, k hits, d the
encoder's width, f the fusion's, L the head's labels, U the labels of head and hits united (the
head's first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Retrieved:
    """One hit as the reader sees it; `label` is that of the head's field.

    `exact`: its normalised text equals the input's and a person gave the label; it decides.
    `doc_id`: what tells whether a head was trained on it; None: it counts as if it was.
    """

    title: str | None
    text: str
    label: str | list[str] | None
    score: float
    vector: NDArray[np.float32] | None
    exact: bool = False
    doc_id: str | None = None

    @property
    def names(self) -> list[str]:
        """Its labels, however many."""
        if self.label is None:
            return []
        return [self.label] if isinstance(self.label, str) else self.label


class Memory(NamedTuple):
    """A batch of hits, padded. A hit with no vector has zeros and `known` false."""

    vectors: Tensor  # [b, k, d]
    labels: Tensor  # [b, k] index into the united labels, or UNLABELLED; or marks [b, k, U]
    scores: Tensor  # [b, k] relative to the best hit of the row, 0 to 1
    mask: Tensor  # [b, k] true where there is a hit
    known: Tensor  # [b, k] true where it has a vector

    def first(self, k: int) -> Memory:
        """Only the best k hits of each row."""
        return Memory(*(part[:, :k] for part in self))

    def rows(self, keep: Tensor) -> Memory:
        """Only some rows of the batch."""
        return Memory(*(part[keep] for part in self))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Memory:
        """On another device; what is a float, in another precision."""
        floats = dtype or self.vectors.dtype
        return Memory(*(x.to(device, floats if x.is_floating_point() else x.dtype) for x in self))

    def closed(self) -> Memory:
        """The same batch with nothing retrieved."""
        return self.first(0)


def make_memory(
    hits: Sequence[Sequence[Retrieved]],
    labels: Sequence[str],
    dim: int,
    k: int,
    *,
    multilabel: bool = False,
) -> Memory:
    """Pad lists of hits; a hit whose label is a list counts as unlabelled.

    `multilabel`: independent labels. `labels` of the memory are then marks [b, k, U], true where a
    hit has the label, and a single label is a list of one.
    """
    width = min(k, max((len(row) for row in hits), default=0))
    shape = (len(hits), width)
    vectors = np.zeros((*shape, dim), dtype=np.float32)
    label = np.full(shape, UNLABELLED, dtype=np.int64)
    marks = np.zeros((*shape, len(labels) if multilabel else 0), dtype=bool)
    scores = np.zeros(shape, dtype=np.float32)
    mask = np.zeros(shape, dtype=bool)
    known = np.zeros(shape, dtype=bool)
    position = {name: i for i, name in enumerate(labels)}
    for i, row in enumerate(hits):
        best = max((abs(hit.score) for hit in row), default=0.0) or 1.0
        for j, hit in enumerate(row[:width]):
            mask[i, j] = True
            scores[i, j] = hit.score / best
            if isinstance(hit.label, str):
                label[i, j] = position.get(hit.label, UNLABELLED)
            if multilabel:
                marks[i, j, [position[name] for name in hit.names if name in position]] = True
            if hit.vector is not None:
                vectors[i, j] = hit.vector
                known[i, j] = True
    held = marks if multilabel else label
    return Memory(*(torch.from_numpy(part) for part in (vectors, held, scores, mask, known)))
