"""Fitting what decides between head and neighbours, on rows that the head was not trained on.

On its own training rows a head is overconfident, and the gate would close. So: held-out or
out-of-fold logits in, gate weights and temperatures out. That a label may be new to the head is
simulated: in copies of the rows some labels are taken away from the head and left to the hits, of
which a few stay, as of a label that has few examples yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from model.labels.gate import Gate, sharpen
from model.labels.memory import UNLABELLED, Memory
from model.labels.neighbours import SMALL, Neighbours, vote
from model.optimise import RIDGE, minimise

K_CHOICES = (8, 16, 32, 48, 64)
K_TOLERANCE = 0.01
"""By how much in likelihood more hits may be worse: a new label needs to be among them."""
SIMULATED_SHARE = 0.2
SIMULATED_COPIES = 10
"""Of each share. With 2, what the gate gave new labels hung on which labels were drawn."""
SIMULATED_HITS = (0.02, 0.06, 0.2)
"""Shares of a new label's hits that are there: one, a few, and ten examples beside a hundred."""
MAX_LOST = 0.01
"""Right answers on known labels that new labels may cost, as a share, in simulation."""


@dataclass(slots=True)
class Evidence:
    """Head and hits for rows with a known answer."""

    logits: Tensor  # [n, L]
    match: Tensor  # [n, k] as in NeighbourMixture.match
    similarity: Tensor  # [n, k]
    memory: Memory
    truth: Tensor  # [n] index into the labels; of independent labels [n, L], 0 or 1
    kernel: Tensor  # [n, 2] scale and ridge of the vote

    def first(self, k: int) -> Evidence:
        """Only the best k hits."""
        match, similarity = self.match[:, :k], self.similarity[:, :k]
        return replace(self, match=match, similarity=similarity, memory=self.memory.first(k))

    def rows(self, keep: Tensor) -> Evidence:
        """Only some rows."""
        return Evidence(
            self.logits[keep],
            self.match[keep],
            self.similarity[keep],
            self.memory.rows(keep),
            self.truth[keep],
            self.kernel[keep],
        )

    def neighbours(self, n_labels: int) -> Neighbours:
        """The hits' vote."""
        scale, ridge = self.kernel.unbind(1)
        return vote(self.match, self.similarity, self.memory, n_labels, scale, ridge)


def join(parts: Sequence[Evidence]) -> Evidence:
    """Put the rows of several folds or batches under each other, padded to the same k."""
    width = max(part.match.shape[1] for part in parts)

    def pad(x: Tensor) -> Tensor:
        missing = width - x.shape[1]
        shape = (len(x), missing, *x.shape[2:])
        return torch.cat([x, x.new_zeros(shape)], dim=1) if missing else x

    memories = zip(*(part.memory for part in parts), strict=True)
    return Evidence(
        torch.cat([p.logits for p in parts]),
        torch.cat([pad(p.match) for p in parts]),
        torch.cat([pad(p.similarity) for p in parts]),
        Memory(*(torch.cat([pad(x) for x in column]) for column in memories)),
        torch.cat([p.truth for p in parts]),
        torch.cat([p.kernel for p in parts]),
    )


def take_labels_away(evidence: Evidence, generator: torch.Generator, retained: float) -> Evidence:
    """A copy in which a fifth of the labels are unknown to the head, with `retained` of their hits.

    The labels keep their places, so that logits, memory and truth need no renumbering: a label
    that is taken away gets the logit -inf and its hits count as hits of an unknown label (places
    L to 2L of the union). Rows whose answer was taken away have their truth there.
    """
    n = evidence.logits.shape[1]
    gone = torch.rand(n, generator=generator) < SIMULATED_SHARE
    if gone.all() or not gone.any():
        gone = torch.zeros(n, dtype=torch.bool)
        gone[int(torch.randint(n, (1,), generator=generator))] = True
    logits = evidence.logits.masked_fill(gone[None, :], -30.0)

    def move(labels: Tensor) -> Tensor:
        moved = gone[labels.clamp(min=0)] & (labels != UNLABELLED)
        return torch.where(moved, labels + n, labels)

    labels = move(evidence.memory.labels)
    stay = (labels < n) | (torch.rand(labels.shape, generator=generator) < retained)
    memory = evidence.memory._replace(
        labels=labels.masked_fill(~stay, UNLABELLED), mask=evidence.memory.mask & stay
    )
    return replace(evidence, logits=logits, memory=memory, truth=move(evidence.truth))


def fit_gate(gate: Gate, evidence: Evidence, *, seed: int = 0) -> None:
    """Fit head temperature, gate weights and final temperature, in place, by likelihood."""
    n = evidence.logits.shape[1]
    with torch.no_grad():
        gate.log_temperature.zero_()

    def head() -> Tensor:
        logits = evidence.logits / gate.log_head_temperature.exp()
        return functional.cross_entropy(logits, evidence.truth)

    minimise([gate.log_head_temperature], head)
    neighbours = evidence.neighbours(n)
    start = gate.weights.detach().clone()

    def mixed() -> Tensor:
        return RIDGE * ((gate.weights - start) ** 2).sum() + _likelihood(gate, evidence, neighbours)

    minimise([gate.weights], mixed)
    if n > 2 and evidence.match.shape[1]:
        _fit_novel(gate, evidence, seed)
    with torch.no_grad():
        probs = gate(evidence.logits, evidence.neighbours(n)).probs

    def last() -> Tensor:
        sharp = sharpen(probs, gate.log_temperature.exp())
        return -sharp.gather(1, evidence.truth[:, None]).clamp(min=SMALL).log().mean()

    minimise([gate.log_temperature], last)


@dataclass(slots=True)
class _Simulated:
    """Rows to which a new label came near, and what the two sides give the truth."""

    features: Tensor  # [m, features]
    old: Tensor  # [m] probability of the truth where no label is new; 0 where it is a new one
    new: Tensor  # [m] its share among the new labels; 0 where it is a known one
    risked: Tensor  # [m] true where the answer is right as long as no label is new
    ahead: Tensor  # [m] the probability of the likeliest known label
    behind: Tensor  # [m] the share of the likeliest new label

    @classmethod
    def of(cls, gate: Gate, evidence: Evidence) -> _Simulated:
        """From a copy whose labels were taken away; the other rows say nothing of new labels."""
        n = evidence.logits.shape[1]
        labels, mask = evidence.memory.labels, evidence.memory.mask
        rows = evidence.rows(((labels >= n) & mask).any(-1))
        neighbours = rows.neighbours(2 * n)
        probs, _, head = gate.known(rows.logits, neighbours)
        features, among = gate.new(head, neighbours)
        both = torch.cat([probs, among], dim=1).gather(1, rows.truth[:, None]).squeeze(1)
        is_old = rows.truth < n
        best, answer = probs.max(-1)
        return cls(
            features, both * is_old, both * ~is_old, answer == rows.truth, best, among.amax(-1)
        )


def _fit_novel(gate: Gate, evidence: Evidence, seed: int) -> None:
    """Fit what new labels are given, then lower it until known ones lose no more than MAX_LOST.

    Losses are counted where new labels have the most examples.
    """
    n = evidence.logits.shape[1]
    generator = torch.Generator().manual_seed(seed)
    simulated: list[_Simulated] = []
    risked: list[_Simulated] = []
    known = 0
    with torch.no_grad():
        for retained in SIMULATED_HITS * SIMULATED_COPIES:
            copy = take_labels_away(evidence, generator, retained)
            simulated.append(_Simulated.of(gate, copy))
            if retained == max(SIMULATED_HITS):
                risked.append(simulated[-1])
                known += int((copy.truth < n).sum())
    features = torch.cat([one.features for one in simulated])
    if not len(features):
        return
    old = torch.cat([one.old for one in simulated])
    new = torch.cat([one.new for one in simulated])
    start = gate.novel.detach().clone()

    def likelihood() -> Tensor:
        mass = torch.sigmoid(features @ gate.novel)
        likely = ((1 - mass) * old + mass * new).clamp(min=SMALL).log().mean()
        return RIDGE * ((gate.novel - start) ** 2).sum() - likely

    minimise([gate.novel], likelihood)
    with torch.no_grad():
        for _ in range(40):
            if sum(map(partial(_lost, gate), risked)) <= MAX_LOST * known:
                break
            gate.novel[0] -= 0.1


def _lost(gate: Gate, rows: _Simulated) -> int:
    """How many right answers a new label takes away."""
    mass = torch.sigmoid(rows.features @ gate.novel)
    return int((rows.risked & (mass * rows.behind > (1 - mass) * rows.ahead)).sum())


def _likelihood(gate: Gate, rows: Evidence, neighbours: Neighbours) -> Tensor:
    probs = gate(rows.logits, neighbours).probs
    likely: Tensor = probs.gather(1, rows.truth[:, None]).clamp(min=SMALL).log().mean()
    return -likely


def choose_k(gate: Gate, evidence: Evidence, *, limit: int, seed: int = 0) -> int:
    """The most hits with which the mixture is about as likely as at its best; fits the gate.

    Raises:
        ArithmeticError: The mixture's probabilities are no numbers: training broke the head.
    """

    def trial(rows: Evidence) -> tuple[float, Gate]:
        fitted = Gate(len(gate.novel))
        fit_gate(fitted, rows, seed=seed)
        with torch.no_grad():
            loss = _likelihood(fitted, rows, rows.neighbours(rows.logits.shape[1]))
        return float(loss), fitted

    return best_k(gate, evidence, limit, trial)


def best_k(
    gate: Gate, evidence: Evidence, limit: int, trial: Callable[[Evidence], tuple[float, Gate]]
) -> int:
    """The most hits whose loss is about the least; `trial` gives a loss and a gate fitted anew.

    Raises:
        ArithmeticError: No loss is a number.
    """
    trials: list[tuple[float, int, Gate]] = []
    for k in sorted({*(c for c in K_CHOICES if c < limit), limit}):
        loss, fitted = trial(evidence.first(k))
        if math.isfinite(loss):
            trials.append((loss, k, fitted))
    if not trials:
        raise ArithmeticError("the head's probabilities became no numbers: take a lower lr")
    least = min(loss for loss, _, _ in trials)
    _, best, fitted = max((t for t in trials if t[0] <= least + K_TOLERANCE), key=lambda t: t[1])
    gate.load_state_dict(fitted.state_dict())
    return best
