"""A head whose labels are independent: a text has any number of them, and each its own probability.

The network is that of `model.labels.network`; what differs is what is made of it:

    p_l = (1 - g_l) sigmoid(z_l / T) + g_l n_l,   answered where p'_l = s(logit(p_l) / T' + c) >= t

`n_l` is the share of the neighbours' weight whose hits carry the label (an indicator regressed on
the hits for each label), `g_l` a gate for each label. Labels that only hits carry come in by
`s(a + b logit(n_l))`, fitted on the known ones as if the head were not there. Everything of the
gate is fitted on rows that the head was not trained on, and so is the one threshold `t`.
Sizes: b texts, k hits, L the head's labels, U those of head and hits united (the head's first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.labels.gate import Gate, Mixture
from model.labels.neighbours import SMALL, Neighbours
from model.labels.novelty import Novel

FEATURES = 7
THRESHOLD = 0.5
"""Where a label is answered when nothing was fitted."""


def binary_loss(p: Tensor, truth: Tensor) -> Tensor:
    """-log of the truth's probability, for probabilities and truths of any one shape."""
    p = p.float().clamp(SMALL, 1 - SMALL)
    return -(truth * p.log() + (1 - truth) * (1 - p).log())


def logit(p: Tensor) -> Tensor:
    """The inverse of the sigmoid, finite."""
    p = p.float().clamp(SMALL, 1 - SMALL)
    return p.log() - (1 - p).log()


class IndependentGate(Gate):
    """`g_l`, what new labels are given, the temperatures and the threshold."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.zeros(FEATURES)
        start[0] = -1.0
        self.weights = nn.Parameter(start)
        self.novel = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.threshold = nn.Parameter(torch.tensor(THRESHOLD))

    def features(self, head: Tensor, neighbours: Neighbours) -> Tensor:
        """Head probabilities [b, L] and neighbours over [b, U] -> [b, L, FEATURES]."""
        share = neighbours.probs[:, : head.shape[1]]
        if neighbours.similarity.shape[1]:
            top = neighbours.similarity.amax(-1)
        else:
            top = head.new_zeros(len(head))
        one = torch.ones_like(head)
        parts = [one, _doubt(head), head, _doubt(share), share, top[:, None] * one, head * share]
        return torch.stack(parts, dim=-1)

    def mixed(self, logits: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """Before the last calibration: probabilities [b, L], gates [b, L]."""
        head = torch.sigmoid(logits / self.log_head_temperature.exp())
        gate = torch.sigmoid(self.features(head, neighbours) @ self.weights)
        gate = torch.where(neighbours.found[:, None], gate, torch.zeros_like(gate))
        return (1 - gate) * head + gate * neighbours.probs[:, : head.shape[1]], gate

    def calibrated(self, p: Tensor) -> Tensor:
        """The last step, in Platt's form: of any shape."""
        return torch.sigmoid(logit(p) / self.log_temperature.exp() + self.shift)

    def by_neighbours(self, share: Tensor) -> Tensor:
        """Shares -> probabilities of labels that the head does not know; of none, 0."""
        probs = torch.sigmoid(self.novel[0] + self.novel[1] * logit(share))
        return torch.where(share > 0, probs, torch.zeros_like(probs))

    def forward(
        self, logits: Tensor, neighbours: Neighbours, novel: Novel | None = None
    ) -> Mixture:
        """Head logits [b, L], neighbours over [b, U] -> independent probabilities [b, U].

        The mixture's gate [b] is that of the best label. `novel` counts for nothing here: what it
        is worth for independent labels was not measured.
        """
        p, gate = self.mixed(logits, neighbours)
        known, n = self.calibrated(p), logits.shape[1]
        new = self.by_neighbours(neighbours.probs[:, n:])
        probs = torch.cat([known, new], dim=-1)
        gates = torch.cat([gate, torch.ones_like(new)], dim=-1)
        best = probs.argmax(-1, keepdim=True)
        novelty = (best >= n).to(probs.dtype).squeeze(-1)
        of_best = gates.gather(1, best).squeeze(-1)
        return Mixture(probs, of_best, novelty, torch.zeros_like(novelty))


def best_threshold(probs: Tensor, truth: Tensor) -> tuple[float, float]:
    """The threshold with the highest micro F1 on probabilities [n, L], and that F1.

    Halfway between two probabilities, so that rows like these fall where they fell; where no label
    is true there is nothing to choose by, and it is `THRESHOLD`.
    """
    order = probs.flatten().argsort(descending=True)
    ranked, hit = probs.flatten()[order].double(), truth.flatten()[order].double()
    total = float(hit.sum())
    if not total:
        return THRESHOLD, 0.0
    counts = torch.arange(1, len(hit) + 1, dtype=torch.double)
    f1 = 2 * hit.cumsum(0) / (counts + total)
    following = torch.cat([ranked[1:], ranked.new_zeros(1)])
    f1 = f1.masked_fill(ranked == following, -1.0)  # a threshold cannot part equal ones
    best = int(f1.argmax())
    return float((ranked[best] + following[best]) / 2), float(f1[best])


def marks_of(labels: Sequence[str], rows: Sequence[Sequence[str]]) -> Tensor:
    """Lists of labels -> [n, L], 1 where a row has the label; labels of no column are left out."""
    position = {label: i for i, label in enumerate(labels)}
    marks = torch.zeros(len(rows), len(labels))
    for i, names in enumerate(rows):
        for name in names:
            if name in position:
                marks[i, position[name]] = 1.0
    return marks


def _doubt(p: Tensor) -> Tensor:
    """The entropy of a yes or no, 0 to 1."""
    return binary_loss(p, p) / math.log(2)
