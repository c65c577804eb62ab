"""Fields of one label a text: answered by their head, or by the neighbours alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.labels.gate import Mixture, credit
from model.labels.memory import Memory, Retrieved, make_memory
from model.labels.neighbours import NEIGHBOURS, Neighbours, plain_vote
from model.labels.network import RetrievalAugmentedModel
from model.labels.novelty import counted, is_new, novel
from model.labels.prediction import Prediction, nothing, prediction_of
from model.labels.query_state import QueryState, read_hits
from model.provenance import TrainedOn


class Trained(NamedTuple):
    """A field's head: its network, the documents that it learned from, how many hits it counts."""

    network: RetrievalAugmentedModel
    known: TrainedOn
    k: int


def answer(
    head: Trained | None,
    states: Sequence[QueryState],
    hits: Sequence[Sequence[Retrieved]],
    labels: list[str],
) -> list[Prediction]:
    """Answer for a batch; `labels`: the head's, then those that only hits or index have.

    Without any label, or where no hit counts and there is no head, the answer abstains.
    """
    if not labels:
        return [nothing(len(row)) for row in hits]
    base = torch.from_numpy(np.stack([state.vector for state in states]))
    memory = make_memory(hits, labels, base.shape[1], head.k if head else NEIGHBOURS)
    if head is None:
        neighbours = plain_vote(base, memory, len(labels))
        mixture, weights = _by_neighbours(neighbours)
    else:
        mixture, weights, neighbours = _by_head(head, states, hits, base, memory, len(labels))
    return [
        prediction_of(
            labels,
            row,
            probs=mixture.probs[i].numpy(),
            weights=weights[i].numpy(),
            near=neighbours.similarity[i].numpy(),
            gate=float(mixture.gate[i]),
            trained=head is not None,
        )
        for i, row in enumerate(hits)
    ]


def _by_neighbours(neighbours: Neighbours) -> tuple[Mixture, Tensor]:
    """The vote alone as a mixture, and each hit's share in it [b, k]."""
    found = neighbours.found.float()
    none = torch.zeros_like(found)
    return Mixture(neighbours.probs, found, none, none), found[:, None] * neighbours.weights


def _by_head(
    head: Trained,
    states: Sequence[QueryState],
    hits: Sequence[Sequence[Retrieved]],
    base: Tensor,
    memory: Memory,
    n_labels: int,
) -> tuple[Mixture, Tensor, Neighbours]:
    """Head and vote mixed, each hit's share in the answer [b, k], and the vote."""
    network = head.network
    own = len(network.config.labels)
    new = is_new(hits, head.known, memory.mask.shape[1])
    memory = counted(memory, new, network.config.k)
    reading = read_hits(network, states, base, memory, n_labels)
    plain = novel(base, memory, new, own)
    mixture = network.gate(reading.logits, reading.neighbours, plain)
    weights = credit(mixture, reading.neighbours, memory, own, plain)
    weights = weights + (1 - mixture.gate[:, None]) * reading.attention
    return mixture, weights, reading.neighbours
