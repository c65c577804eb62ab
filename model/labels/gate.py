"""How far the head is trusted and how far the neighbours (after Khandelwal et al. 2020).

    p(y | x, D) = (1 - g) p_head(y | x, D) + g * sum_i a_i [y_i = y]

over the labels that the head knows. Labels that only hits carry share a mass `u`, which a second
gate gives them: p = (1 - u) * (the above) + u * (by nearest hit, among the new labels). Both are 0
where there is no such hit. Documents that are new to the head: `model.labels.novelty`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.labels.memory import UNLABELLED, Memory
from model.labels.neighbours import ABSENT, SMALL, Neighbours
from model.labels.novelty import Novel

GATE_FEATURES = 8
NOVEL_FEATURES = 6
VOTE_FLOOR = 0.02
"""Added to both sides of a vote's odds."""
NOVEL_SHARPNESS = 20.0
"""Of the softmax of matches that picks among new labels."""
UNSEEN = 0.3
"""With none but new labels among the hits, how much farther the next known one is taken to be."""


def gate_features(head: Tensor, neighbours: Neighbours) -> Tensor:
    """Head probabilities [b, L] and neighbours over [b, U] -> [b, GATE_FEATURES].

    Entropies of both sides, top similarity and agreement, over the labels that the head knows.
    """
    n = head.shape[1]
    known = known_part(neighbours, n)[0]
    if neighbours.similarity.shape[1]:
        top = neighbours.similarity.amax(-1)
    else:
        top = head.new_zeros(len(head))
    confident, says = head.max(-1)
    return torch.stack(
        [
            torch.ones_like(top),
            _entropy(head) / math.log(max(n, 2)),
            confident,
            _entropy(known) / math.log(max(n, 2)),
            known.amax(-1),
            top,
            (head * known).sum(-1),
            known.gather(1, says[:, None]).squeeze(1),
        ],
        dim=-1,
    )


def known_part(neighbours: Neighbours, n: int) -> tuple[Tensor, Tensor]:
    """The vote over the head's n labels [b, n], normalised; and where there is one [b]."""
    known = neighbours.probs[:, :n]
    total = known.sum(-1)
    return known / total.clamp(min=SMALL)[:, None], neighbours.found & (total > SMALL)


def novel_features(head: Tensor, neighbours: Neighbours) -> Tensor:
    """Head probabilities [b, L] and neighbours over [b, U] -> [b, NOVEL_FEATURES].

    How much nearer the best hit of a new label is than the best of a known one, by the learned
    match and by the base vectors; how sure the head is; and the odds of the new labels in the vote
    of all hits, which pools what several examples say and discounts those that repeat each other.
    """
    n = head.shape[1]

    def margin(nearest: Tensor) -> Tensor:
        new, known = nearest[:, n:].amax(-1), nearest[:, :n].amax(-1)
        return 10 * (new - torch.where(known > ABSENT, known, new - UNSEEN))

    matches = margin(neighbours.match), margin(neighbours.cosine)
    sure = head.amax(-1), _entropy(head) / math.log(max(n, 2))
    vote_ = neighbours.probs[:, n:].sum(-1)
    odds = torch.log((vote_ + VOTE_FLOOR) / (1 - vote_ + VOTE_FLOOR))
    return torch.stack([torch.ones_like(odds), *matches, *sure, odds], dim=-1)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=SMALL).log()).sum(-1)


class Mixture(NamedTuple):
    """The answer: probabilities over the united labels, and how far the neighbours decided."""

    probs: Tensor  # [b, U]
    gate: Tensor  # [b]
    novelty: Tensor  # [b] the mass of labels that the head does not know
    plain: Tensor  # [b] the part of the gate that the plain vote has


class Gate(nn.Module):
    """`g`, `u` and the temperatures; fitted on rows that the head was not trained on.

    Where no hit carries a new label, `u` is 0 and nothing of it touches the answer. `novel`: how
    many of the features `u` goes by.
    """

    def __init__(self, novel: int = NOVEL_FEATURES) -> None:
        super().__init__()
        start = torch.zeros(GATE_FEATURES)
        start[0] = -1.0
        self.weights = nn.Parameter(start)
        self.novel = nn.Parameter(torch.tensor([-0.5, 0.5, 2.0, -1.0, 0.5, 0.0])[:novel])
        self.log_head_temperature = nn.Parameter(torch.tensor(0.0))
        self.log_temperature = nn.Parameter(torch.tensor(0.0))

    def known(self, logits: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor, Tensor]:
        """Head and vote over the head's labels: probabilities [b, L], gate [b], head's [b, L]."""
        head = (logits / self.log_head_temperature.exp()).softmax(-1)
        known, found = known_part(neighbours, head.shape[1])
        gate = torch.sigmoid(gate_features(head, neighbours) @ self.weights)
        gate = torch.where(found, gate, torch.zeros_like(gate))
        return (1 - gate)[:, None] * head + gate[:, None] * known, gate, head

    def new(self, head: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """Of the new labels: the features of their mass, and their shares [b, U - L] of it."""
        match = neighbours.match[:, head.shape[1] :]
        features = novel_features(head, neighbours)[:, : len(self.novel)]
        return features, (NOVEL_SHARPNESS * match).softmax(-1) * (match > ABSENT)

    def forward(
        self, logits: Tensor, neighbours: Neighbours, novel: Novel | None = None
    ) -> Mixture:
        """Head logits [b, L], neighbours over [b, U] -> probabilities [b, U], gate [b]."""
        probs, gate, head = self.known(logits, neighbours)
        plain = torch.zeros_like(gate)
        if novel is not None:
            plain = gate * novel.mass
            probs = (1 - plain)[:, None] * probs + plain[:, None] * novel.probs
            gate = plain + (1 - plain) * gate
        n = head.shape[1]
        if neighbours.probs.shape[1] == n:
            sharp = sharpen(probs, self.log_temperature.exp())
            return Mixture(sharp, gate, torch.zeros_like(gate), plain)
        features, among = self.new(head, neighbours)
        novelty = torch.sigmoid(features @ self.novel) * among.any(-1)
        old = 1 - novelty
        probs = torch.cat([old[:, None] * probs, novelty[:, None] * among], dim=-1)
        sharp = sharpen(probs, self.log_temperature.exp())
        return Mixture(sharp, novelty + old * gate, novelty, old * plain)


def credit(
    mixture: Mixture,
    neighbours: Neighbours,
    memory: Memory,
    n: int,
    novel: Novel | None = None,
) -> Tensor:
    """Each hit's share [b, k] of the neighbours' part of the answer, which sums to the gate."""
    there = memory.mask & (memory.labels != UNLABELLED)
    near = neighbours.weights + 1e-3 * neighbours.similarity.clamp(min=0.0)

    def part(hits: Tensor, mass: Tensor) -> Tensor:
        weights = near * hits
        return mass[:, None] * weights / weights.sum(-1, keepdim=True).clamp(min=SMALL)

    new = there & (memory.labels >= n)
    old = part(there & ~new, mixture.gate - mixture.novelty - mixture.plain)
    shares = old + part(new, mixture.novelty)
    if novel is None:
        return shares
    return shares + mixture.plain[:, None] * novel.weights


def sharpen(probs: Tensor, temperature: Tensor) -> Tensor:
    """`p^(1/T)`, normalised; a zero stays zero."""
    powered = probs.clamp(min=1e-12) ** (1 / temperature) * (probs > 0)
    return powered / powered.sum(-1, keepdim=True).clamp(min=1e-12)
