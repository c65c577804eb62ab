"""The hits' own labels as an answer: kernel ridge regression at the text.

The weights are a = (K + rI)^-1 k(x), with a learned match in k(x): unlike a softmax of similarities
they discount hits that repeat each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.labels.memory import UNLABELLED, Memory

NEIGHBOURS = 48
"""Hits that a field without a head counts."""
SMALL = 1e-6
KERNEL_SCALE = 4.0
KERNEL_RIDGE = 0.3
NO_VECTOR = 0.5
"""Stand-in cosine of the best hit that has no vector yet."""
ABSENT = -2.0
"""The match of a label that no hit carries: below any cosine."""


class Neighbours(NamedTuple):
    """What the hits say by themselves."""

    weights: Tensor  # [b, k] over labelled hits, 0 or more, summing to 1 (or 0)
    probs: Tensor  # [b, U]
    similarity: Tensor  # [b, k] cosine of base vectors; of hits without one, their score
    found: Tensor  # [b] true where a labelled hit is there
    match: Tensor  # [b, U] the best match of each label's hits, or ABSENT
    cosine: Tensor  # [b, U] the same by the base vectors' cosine


class NeighbourMixture(nn.Module):
    """Weights over labelled hits from a learned match; untrained, it is the base's cosine."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bilinear = nn.Parameter(torch.zeros(dim, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(KERNEL_SCALE)))
        self.log_ridge = nn.Parameter(torch.tensor(math.log(KERNEL_RIDGE)))
        self.base = nn.Parameter(torch.tensor(0.5))  # how much the base vectors' cosine counts
        self.lexical = nn.Parameter(torch.tensor(0.0))
        self.no_vector = nn.Parameter(torch.tensor(0.5))  # the match of a hit with no vector

    def match(self, query: Tensor, base: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Adapted and base vectors [b, d] -> matches [b, k], cosines of base vectors [b, k]."""
        with torch.autocast(query.device.type, enabled=False):
            query, base = query.double(), base.double()
            moved = self.base * base + (1 - self.base) * (query + query @ self.bilinear.double())
        cosine, learned = products(memory, base, moved)
        match = torch.where(memory.known, learned, self.no_vector * memory.scores)
        similarity = torch.where(memory.known, cosine, NO_VECTOR * memory.scores)
        return match + self.lexical * memory.scores, similarity

    def forward(self, query: Tensor, base: Tensor, memory: Memory, n_labels: int) -> Neighbours:
        """-> weights and label probabilities over `n_labels` united labels."""
        match, similarity = self.match(query, base, memory)
        kernel = self.log_scale.exp(), self.log_ridge.exp()
        return vote(match, similarity, memory, n_labels, *kernel)


def plain_vote(base: Tensor, memory: Memory, n_labels: int) -> Neighbours:
    """Neighbours with nothing learned. Base vectors [b, d]."""
    (cosine,) = products(memory, base)
    near = torch.where(memory.known, cosine, NO_VECTOR * memory.scores)
    kernel = torch.tensor(KERNEL_SCALE), torch.tensor(KERNEL_RIDGE)
    return vote(near, near, memory, n_labels, *kernel)


def products(memory: Memory, *queries: Tensor) -> tuple[Tensor, ...]:
    """Of the hits' vectors and each query's [b, d] -> [b, k], the same alone and in any batch.

    Summed in double precision: single would differ with the shape of the batch, and temperatures
    below 1 make a hundredfold of it.
    """
    with torch.autocast(memory.vectors.device.type, enabled=False):
        found = memory.vectors.double() @ torch.stack(queries, dim=-1).double()
    return found.float().unbind(-1)


def vote(
    match: Tensor, similarity: Tensor, memory: Memory, n_labels: int, scale: Tensor, ridge: Tensor
) -> Neighbours:
    """Kernel ridge regression of the labels on the labelled hits, at the query.

    `match` [b, k]: of query and hits; scale and ridge: one, or one a row. The kernel is
    exp(scale * (cosine - 1)). A label's score is the sum of its hits' weights, of either sign;
    probabilities are the positive ones, normalised. Where a hit has several labels (marks
    [b, k, U]) each label's score is the share of its hits in all positive weight, 0 to 1.
    """
    multilabel = memory.labels.ndim == 3
    has = memory.labels.any(-1) if multilabel else memory.labels != UNLABELLED
    labelled = memory.mask & has
    b, k = labelled.shape
    if k == 0:
        nothing = match.new_zeros(b, n_labels)
        absent = nothing + ABSENT
        return Neighbours(match, nothing, similarity, labelled.any(-1), absent, absent)
    # In double precision: no rounding of a system of k equations shows in an influence.
    with torch.autocast(match.device.type, enabled=False):
        vectors = memory.vectors.double()
        scale, ridge = scale.double().expand(b), ridge.double().expand(b)
        gram = vectors @ vectors.transpose(1, 2)  # [b, k, k]
        pair = labelled[:, :, None] & labelled[:, None, :]
        kernel = torch.exp(scale[:, None, None] * (gram - 1)) * pair
        kernel = kernel * (1 - torch.eye(k, device=match.device))
        system = kernel + torch.diag_embed((1 + ridge)[:, None].expand(b, k))
        right = torch.exp(scale[:, None] * (match.double() - 1)) * labelled
        solved = torch.linalg.solve(system, right[:, :, None]).squeeze(-1).float() * labelled
    if multilabel:
        weights = solved.relu()
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=SMALL)
        # A sum, not a product of matrices: that would be in bf16 under autocast.
        shares = (weights[..., None] * memory.labels).sum(1).clamp(max=1.0)
        absent = torch.full_like(shares, ABSENT)
        found = weights.sum(-1) > SMALL
        return Neighbours(weights, shares, similarity * memory.mask, found, absent, absent)
    places = memory.labels.clamp(min=0)
    votes = solved.new_zeros(b, n_labels).scatter_add(1, places, solved).relu()
    probs = votes / votes.sum(-1, keepdim=True).clamp(min=SMALL)
    weights = solved.relu()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=SMALL)
    found = labelled.any(-1) & (votes.sum(-1) > SMALL)
    nearest = [best_of_label(x, memory.labels, labelled, n_labels) for x in (match, similarity)]
    return Neighbours(weights, probs, similarity * memory.mask, found, *nearest)


def best_of_label(values: Tensor, labels: Tensor, labelled: Tensor, n_labels: int) -> Tensor:
    """Values of hits [b, k] -> the greatest of each label [b, U], ABSENT where it has no hit."""
    values = values.detach().float().masked_fill(~labelled, ABSENT)
    start = values.new_full((len(values), n_labels), ABSENT)
    return start.scatter_reduce(1, labels.clamp(min=0), values, "amax")
