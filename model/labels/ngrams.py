"""A linear view of a text beside the Transformer's: each n-gram of its tokens has a weight a label.

    z = T(x, D) + s * (W^T u(x) + b),   u(x): sublinear TF-IDF of uni- and bigrams, of length 1

A wide part beside the deep one (Wide & Deep, Cheng et al. 2016). It is a convex problem over the
very words, of the whole text, where the deep part is a mean of states, and errs elsewhere. W is
fitted on training rows (logistic regression, L2; multinomial, or one for each label where they are
independent); `s` on rows that neither part was trained on, where 0 leaves the view out. Sizes: n
texts, L labels, m n-grams. A truth is [n] places of labels, or [n, L] marks of independent ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.optimise import RIDGE, minimise

C = 10.0
"""Inverse of the regularisation, as scikit-learn counts it."""
LEAST_TEXTS = 2
"""An n-gram that fewer texts have is not kept."""
MOST_WEIGHTS = 4_000_000
"""n-grams times labels; beyond it the rarest n-grams are not kept."""
SHIFT = 32
"""A bigram's key is its first token above this bit, its second below; a unigram has no first."""


class Counts(NamedTuple):
    """Which n-grams texts have: parallel arrays, ordered by text."""

    keys: NDArray[np.int64]
    owner: NDArray[np.int64]  # the text
    times: NDArray[np.int64]


class NGrams(nn.Module):
    """The view of one head. It stays on the CPU in its own precision, wherever a network goes."""

    keys: Tensor  # [m] ascending
    idf: Tensor  # [m]
    weight: Tensor  # [m, L], half precision
    bias: Tensor  # [L]

    def __init__(self, features: int, labels: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(features, dtype=torch.long))
        self.register_buffer("idf", torch.zeros(features))
        self.register_buffer("weight", torch.zeros(features, labels, dtype=torch.float16))
        self.register_buffer("bias", torch.zeros(labels))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        return self

    @classmethod
    def fit(cls, token_ids: Sequence[Sequence[int]], truth: Tensor, labels: int) -> NGrams:
        """From texts and their truth, with `s` = 1."""
        counts = counts_of(token_ids)
        keys, texts = np.unique(counts.keys, return_counts=True)
        least = LEAST_TEXTS
        while (frequent := texts >= least).sum() * labels > MOST_WEIGHTS:
            least += 1
        view = cls(int(frequent.sum()), labels)
        view.keys = torch.from_numpy(keys[frequent])
        view.idf = torch.from_numpy(np.log((1 + len(truth)) / (1 + texts[frequent])) + 1).float()
        indices, offsets, values = view.features(counts, len(truth))
        weight = nn.Parameter(torch.zeros(len(view.keys), labels))
        bias = nn.Parameter(torch.zeros(labels))

        def loss() -> Tensor:
            z = F.embedding_bag(indices, weight, offsets, mode="sum", per_sample_weights=values)
            return _loss(z + bias, truth) + (weight**2).sum() / (2 * C * len(truth))

        if len(indices):
            minimise([weight, bias], loss, history=10)
        view.weight, view.bias = weight.detach().half(), bias.detach()
        return view

    def features(self, counts: Counts, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """u(x) of n texts, as bags: places among the n-grams, each text's first one [n], values."""
        keys, idf = self.keys.numpy(), self.idf.numpy()
        places = np.searchsorted(keys, counts.keys)
        known = np.zeros(len(places), dtype=bool)
        inside = places < len(keys)
        known[inside] = keys[places[inside]] == counts.keys[inside]
        places, owner = places[known], counts.owner[known]
        values = (1 + np.log(counts.times[known])) * idf[places]
        values /= np.sqrt(np.bincount(owner, values**2, minlength=n))[owner]
        offsets = np.searchsorted(owner, np.arange(n))
        return torch.from_numpy(places), torch.from_numpy(offsets), torch.from_numpy(values).float()

    def forward(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Token ids of n texts -> what is added to the head's logits, [n, L]."""
        n = len(token_ids)
        indices, offsets, values = self.features(counts_of(token_ids), n)
        weighted = self.weight[indices].float() * values[:, None]
        # Each text's own sum, so that no answer depends on what it shares a batch with.
        sums = [part.sum(0) for part in weighted.tensor_split(offsets[1:])]
        return torch.stack(sums) + self.bias

    def times(self, share: float) -> None:
        """Set `s`: the weights are multiplied by it."""
        self.weight, self.bias = (self.weight.float() * share).half(), self.bias * share


def counts_of(token_ids: Sequence[Sequence[int]]) -> Counts:
    """Uni- and bigrams of texts; the encoder's own marks count as tokens."""
    lengths = np.array([len(row) for row in token_ids])
    ids = np.fromiter(chain.from_iterable(token_ids), np.int64, count=int(lengths.sum())) + 1
    text = np.repeat(np.arange(len(lengths)), lengths)
    within = text[1:] == text[:-1]
    pairs = ((ids[:-1] << SHIFT) | ids[1:])[within]
    keys, owner = np.concatenate([ids, pairs]), np.concatenate([text, text[1:][within]])
    order = np.lexsort((keys, owner))
    keys, owner = keys[order], owner[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = (keys[1:] != keys[:-1]) | (owner[1:] != owner[:-1])
    starts = np.flatnonzero(first)
    return Counts(keys[starts], owner[starts], np.diff(starts, append=len(keys)))


def share_of(logits: Tensor, view: Tensor, truth: Tensor) -> float:
    """The `s` with which head and view, [n, L] each, are likeliest together; 0 or more."""
    cool, weight = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def loss() -> Tensor:
        mixed = cool.exp() * logits + weight * view
        return _loss(mixed, truth) + RIDGE * (weight**2 + cool**2)

    minimise([weight, cool], loss)
    return max(0.0, float(weight.detach() / cool.detach().exp()))


def _loss(z: Tensor, truth: Tensor) -> Tensor:
    if truth.ndim == 1:
        return F.cross_entropy(z, truth)
    return F.binary_cross_entropy_with_logits(z, truth, reduction="none").sum(-1).mean()
