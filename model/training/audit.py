"""Which labels of a set are probably wrong: what neighbours and an unconcerned head say of each.

Both judge a row without its own label: the head is a logistic regression over base vectors that was
fitted on the other folds (Stone 1974), the neighbours vote by kernel ridge regression without the
row itself. A row is suspicious as far as some other label is likelier than its own under the mean
of the two. Sizes: n rows, d the encoder's width, L labels, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.labels.memory import Memory
from model.labels.neighbours import plain_vote
from model.optimise import minimise

Floats = NDArray[np.float32]
Tick = Callable[[int, int, str], None]
"""(step, total, stage); may raise to end the work."""

NEIGHBOURS = 48
BLOCK = 256
PENALTY = 1.0
"""Inverse strength of the L2 penalty, as scikit-learn's C."""
STEPS = 60
FLOOR = 0.01
"""Below this a probability says no more than that it is small."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found of each row. `score` in (0, 1): 0.5 and more where another label wins."""

    score: Floats  # [n]
    suggested: NDArray[np.int64]  # [n] the likeliest label that is not the row's own
    head: Floats  # [n, L] out-of-fold
    neighbours: Floats  # [n, L]
    nearest: NDArray[np.int64]  # [n, k] rows, nearest first; -1 where there are fewer
    similarity: Floats  # [n, k] cosines
    weights: Floats  # [n, k] share of each neighbour in the vote


def audit(
    vectors: Floats,
    labels: NDArray[np.int64],
    groups: Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
    tick: Tick = lambda step, total, stage: None,
) -> Audit:
    """Judge every row. Rows of one group (equal texts) are in one fold.

    `vectors` [n, d] of length 1. A neighbour of a row's own group with the same label does not
    count: a copy cannot confirm what it was copied from.
    """
    n_labels = int(labels.max()) + 1
    head = out_of_fold(vectors, labels, groups, folds=folds, seed=seed, tick=tick)
    nearest, similarity, weights, vote = neighbours(vectors, labels, groups, n_labels, tick)
    score, suggested = judge(head, vote, labels)
    return Audit(score, suggested, head, vote, nearest, similarity, weights)


def judge(
    head: Floats, vote: Floats, labels: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """Scores [n] and suggested labels [n] from what head and neighbours say, [n, L] each."""
    rows = np.arange(len(labels))
    both = (head + vote) / 2
    own = both[rows, labels] + FLOOR
    others = both.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(1)
    best = others[rows, suggested] + FLOOR
    return (best / (best + own)).astype(np.float32), suggested


def out_of_fold(
    vectors: Floats,
    labels: NDArray[np.int64],
    groups: Sequence[int],
    *,
    folds: int,
    seed: int,
    tick: Tick,
) -> Floats:
    """Probabilities [n, L] of each row by a logistic regression that has not seen its group."""
    n_labels = int(labels.max()) + 1
    fold = deal(labels, groups, folds, seed)
    probs = np.zeros((len(labels), n_labels), dtype=np.float32)
    for part in range(folds):
        inside = fold == part
        if not inside.any() or inside.all():
            continue

        def step(done: int, part: int = part) -> None:
            tick(part * STEPS + min(done, STEPS), folds * STEPS, "out-of-fold head")

        weight, bias = fit(vectors[~inside], labels[~inside], n_labels, step)
        logits = torch.from_numpy(vectors[inside]) @ weight + bias
        probs[inside] = logits.softmax(-1).numpy()
    return probs


def deal(
    labels: NDArray[np.int64], groups: Sequence[int], folds: int, seed: int
) -> NDArray[np.int64]:
    """A fold for each row: groups stay together, each label is spread over the folds."""
    order = np.random.default_rng(seed).permutation(len(labels))
    fold_of: dict[int, int] = {}
    dealt = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    for i in order:
        group = groups[i]
        if group not in fold_of:
            fold_of[group] = int(dealt[labels[i]] % folds)
            dealt[labels[i]] += 1
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


def fit(
    vectors: Floats, labels: NDArray[np.int64], n_labels: int, step: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L2 penalty: weight [d, L] and bias [L]."""
    x, y = torch.from_numpy(vectors), torch.from_numpy(labels)
    weight = torch.zeros(x.shape[1], n_labels, requires_grad=True)
    bias = torch.zeros(n_labels, requires_grad=True)
    done = 0

    def loss() -> Tensor:
        nonlocal done
        done += 1
        step(done)
        penalty = (weight**2).sum() / (2 * PENALTY * len(y))
        return F.cross_entropy(x @ weight + bias, y) + penalty

    minimise([weight, bias], loss, steps=STEPS, tolerance=1e-5, history=10)
    return weight.detach(), bias.detach()


def neighbours(
    vectors: Floats,
    labels: NDArray[np.int64],
    groups: Sequence[int],
    n_labels: int,
    tick: Tick,
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Nearest rows [n, k], cosines [n, k], weights [n, k] and the vote [n, L] of each row."""
    n, k = len(labels), min(NEIGHBOURS, max(len(labels) - 1, 0))
    group = np.asarray(groups)
    nearest = np.full((n, k), -1, dtype=np.int64)
    similarity = np.zeros((n, k), dtype=np.float32)
    weights = np.zeros((n, k), dtype=np.float32)
    vote = np.zeros((n, n_labels), dtype=np.float32)
    for start in range(0, n if k else 0, BLOCK):
        tick(start, n, "neighbours")
        mine = np.arange(start, min(start + BLOCK, n))
        cosines = vectors[mine] @ vectors.T
        copies = (group[mine][:, None] == group[None]) & (labels[mine][:, None] == labels[None])
        copies[np.arange(len(mine)), mine] = True
        cosines[copies] = -2.0
        places = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosines, places, 1)
        order = np.argsort(-near, axis=1, kind="stable")
        places, near = np.take_along_axis(places, order, 1), np.take_along_axis(near, order, 1)
        there = near > -1.5
        memory = Memory(
            torch.from_numpy(vectors[places]),
            torch.from_numpy(labels[places]),
            torch.from_numpy(near),
            torch.from_numpy(there),
            torch.ones(places.shape, dtype=torch.bool),
        )
        voted = plain_vote(torch.from_numpy(vectors[mine]), memory, n_labels)
        nearest[mine], similarity[mine] = np.where(there, places, -1), near
        weights[mine], vote[mine] = voted.weights.numpy(), voted.probs.numpy()
    return nearest, similarity, weights, vote
