"""Hits that a head was not trained on: corrections, and documents that are newer than it.

The gate was fitted where head and learned match knew the hits from training. Of a hit that they do
not know they cannot say what it is worth, but the plain vote of base vectors, in which nothing was
learned, can. So it is mixed in as likely as one of three hits, drawn by their weights in it, is new
(`s`: the share of new ones), and no farther than the gate `g` trusts neighbours at all:

    p' = (1 - m) p + m q,  m = g (1 - (1 - s)^3)

A head whose documents were written down (`model.provenance`) also counts more hits than were fitted
where one of them is new to it. Where none is, or nothing was written down, nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.labels.memory import UNLABELLED, Memory, Retrieved
from model.labels.neighbours import SMALL, plain_vote
from model.provenance import TrainedOn

COUNTED = 48
"""Hits that are counted, at least, where one of them is new to the head."""
VOTING = 16
"""The nearest of them have the plain vote."""
DRAWN = 3
"""A root of the share would do as well and is too steep at 0: rounding would show in influences."""


class Novel(NamedTuple):
    """What the plain vote says where hits are new to the head."""

    mass: Tensor  # [b] 1 - (1 - s)^3
    probs: Tensor  # [b, L] over the head's labels
    weights: Tensor  # [b, k] of hits, summing to 1 (or 0)


def is_new(hits: Sequence[Sequence[Retrieved]], known: TrainedOn, width: int) -> Tensor:
    """Which hits [b, width] a head was not trained on; none, where nothing was written down."""
    new = np.zeros((len(hits), width), dtype=bool)
    if not known:
        return torch.from_numpy(new)
    places = [
        (i, j, hit.doc_id)
        for i, row in enumerate(hits)
        for j, hit in enumerate(row[:width])
        if hit.doc_id is not None
    ]
    for (i, j, _), lacks in zip(places, known.lacks([p[2] for p in places]), strict=True):
        new[i, j] = lacks
    return torch.from_numpy(new)


def counted(memory: Memory, new: Tensor, k: int) -> Memory:
    """The hits that count: all where one is new [b, width], elsewhere the first k."""
    if not bool(new.any()):
        return memory.first(k)
    first = torch.arange(new.shape[1]) < k
    return memory._replace(mask=memory.mask & (first | new.any(-1, keepdim=True)))


def novel(base: Tensor, memory: Memory, new: Tensor, n: int) -> Novel | None:
    """The plain vote over the head's n labels, base vectors [b, d]; None: no hit is new."""
    k = memory.mask.shape[1]
    near = memory.first(VOTING)
    known = (near.labels != UNLABELLED) & (near.labels < n)
    new = new[:, : near.mask.shape[1]] & near.mask & known
    if not bool(new.any()):
        return None
    labels = near.labels.masked_fill(~known, UNLABELLED)
    vote = plain_vote(base, near._replace(labels=labels), n)
    share = (vote.weights * new).sum(-1).clamp(max=1.0)
    mass = (1 - (1 - share) ** DRAWN) * (vote.probs.sum(-1) > SMALL)
    return Novel(mass, vote.probs, F.pad(vote.weights, (0, k - near.mask.shape[1])))
