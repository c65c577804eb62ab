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
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder, mean_pool
from model.labels.gate import Gate, Mixture
from model.labels.neighbours import SMALL, Neighbours
from model.labels.network import RetrievalAugmentedModel
from model.labels.novelty import Novel
from model.training.batches import Batch, adapted
from model.training.calibration import K_CHOICES, K_TOLERANCE, RIDGE, Evidence, minimise

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
        told = torch.sigmoid(self.novel[0] + self.novel[1] * logit(share))
        return torch.where(share > 0, told, torch.zeros_like(told))

    def forward(
        self, logits: Tensor, neighbours: Neighbours, novel: Novel | None = None
    ) -> Mixture:
        """Head logits [b, L], neighbours over [b, U] -> independent probabilities [b, U].

        The mixture's gate [b] is that of the best label. `unlearned` counts for nothing here: what
        it is worth for independent labels was not measured.
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


class MultilabelModel(RetrievalAugmentedModel):
    """The network of a label field whose values are lists."""

    gate: IndependentGate

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.gate = IndependentGate()


def label_network(config: HeadConfig, encoder: Encoder) -> RetrievalAugmentedModel:
    """The network that a label field's configuration describes."""
    return (MultilabelModel if config.multilabel else RetrievalAugmentedModel)(config, encoder)


def multilabel_loss(
    model: RetrievalAugmentedModel, batch: Batch, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """As `trainer.loss_of`, with a binary loss for each label, summed over the labels of a row."""
    h, mask = adapted(model, batch)
    memory = batch.memory if config.retrieval else batch.memory.closed()
    logits, _, _ = model.classify(h, mask, memory)
    smooth = config.label_smoothing
    truth = batch.truth * (1 - smooth) + smooth / 2
    said = torch.sigmoid(logits.float())
    loss = binary_loss(said, truth).sum(-1).mean()
    if not config.retrieval:
        return loss
    vote = model.mixture(mean_pool(h, mask), batch.base, memory, truth.shape[1])
    # A label that no hit of a row carries teaches the weights nothing about that row.
    there = (memory.labels & memory.mask[..., None]).any(1)
    shares = vote.probs.clamp(1e-3, 1 - 1e-3)
    votes = binary_loss(shares, batch.truth) * there
    loss = loss + config.neighbour_loss * votes.sum(-1).mean()
    closed = torch.rand(len(logits), generator=generator) < config.drop_retrieval
    keep = closed.nonzero().squeeze(1)
    if len(keep):
        alone, _, _ = model.classify(h[keep], mask[keep], memory.rows(keep).closed())
        share = len(keep) / len(logits)
        shut, opened = torch.sigmoid(alone.float()), said[keep]
        loss = loss + share * binary_loss(shut, truth[keep]).sum(-1).mean()
        # Symmetric KL of two Bernoulli variables: (p - q)(logit p - logit q).
        pull = ((shut - opened) * (alone.float() - logits[keep].float())).sum(-1).mean()
        loss = loss + config.consistency * share * pull / 2
    return loss


def fit_multilabel(gate: IndependentGate, evidence: Evidence) -> None:
    """Fit temperatures, gate, new labels and threshold, in place, on rows not trained on."""
    truth, n = evidence.truth, evidence.logits.shape[1]
    with torch.no_grad():
        gate.log_temperature.zero_()
        gate.shift.zero_()

    def head() -> Tensor:
        cool = gate.log_head_temperature
        # Rows without a mistake would want an ever lower temperature.
        told = F.binary_cross_entropy_with_logits(evidence.logits / cool.exp(), truth)
        return RIDGE * cool**2 + told

    minimise([gate.log_head_temperature], head)
    neighbours = evidence.neighbours(n)
    start = gate.weights.detach().clone()

    def mixed() -> Tensor:
        ridge = RIDGE * ((gate.weights - start) ** 2).sum()
        return ridge + binary_loss(gate.mixed(evidence.logits, neighbours)[0], truth).mean()

    minimise([gate.weights], mixed)
    share, some = neighbours.probs, neighbours.probs > 0
    if bool(some.any()):
        before = gate.novel.detach().clone()

        def new() -> Tensor:
            ridge = RIDGE * ((gate.novel - before) ** 2).sum()
            return ridge + binary_loss(gate.by_neighbours(share[some]), truth[some]).mean()

        minimise([gate.novel], new)
    with torch.no_grad():
        p = gate.mixed(evidence.logits, neighbours)[0]

    def last() -> Tensor:
        ridge = RIDGE * (gate.log_temperature**2 + gate.shift**2)
        told = logit(p) / gate.log_temperature.exp() + gate.shift
        return ridge + F.binary_cross_entropy_with_logits(told, truth)

    minimise([gate.log_temperature, gate.shift], last)
    with torch.no_grad():
        gate.threshold.fill_(best_threshold(gate.calibrated(p), truth)[0])


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


def choose_k_multilabel(gate: IndependentGate, evidence: Evidence, *, limit: int) -> int:
    """As `calibration.choose_k`: the most hits that are about as likely as the best; fits."""
    trials: list[tuple[float, int, IndependentGate]] = []
    labels = evidence.logits.shape[1]
    for k in sorted({*(c for c in K_CHOICES if c < limit), limit}):
        rows, trial = evidence.first(k), IndependentGate()
        fit_multilabel(trial, rows)
        with torch.no_grad():
            probs = trial(rows.logits, rows.neighbours(labels)).probs
            trials.append((float(binary_loss(probs, rows.truth).sum(-1).mean()), k, trial))
    least = min(loss for loss, _, _ in trials)
    _, best, trial = max((t for t in trials if t[0] <= least + K_TOLERANCE), key=lambda t: t[1])
    gate.load_state_dict(trial.state_dict())
    return best


def start_multilabel(model: RetrievalAugmentedModel, vectors: Tensor, truth: Tensor) -> None:
    """Start the head at the class means around the common mean, and at how frequent labels are."""
    middle, scale = vectors.mean(0), model.log_head_scale.detach().exp()
    with torch.no_grad():
        for label in range(truth.shape[1]):
            mine = vectors[truth[:, label] > 0]
            if len(mine):
                model.head.weight[label] = (mine.mean(0) - middle).to(model.head.weight)
        often = (truth.sum(0) + 0.5) / (len(truth) + 1)
        model.head.bias.copy_(logit(often).to(model.head.bias) / scale)


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
