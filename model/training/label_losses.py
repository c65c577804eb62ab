"""What a head of labels starts from, and what it is trained by.

The loss has four terms: the head with the hits, the neighbours' vote, the head with the book
closed on some of the rows, and the symmetric KL that pulls the two answers of the head together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TrainConfig
from model.encoder.encoder import mean_pool
from model.labels.memory import Memory
from model.labels.multilabel import binary_loss, logit
from model.labels.neighbours import SMALL
from model.labels.network import RetrievalAugmentedModel
from model.training.label_examples import Batch, adapted


def start_head(model: RetrievalAugmentedModel, vectors: Tensor, truth: Tensor) -> None:
    """Start the head at the class means of base vectors [n, d], around their common mean.

    Independent labels also start at how frequent they are.
    """
    middle, multilabel = vectors.mean(0), model.config.multilabel
    with torch.no_grad():
        for label in range(len(model.config.labels)):
            mine = vectors[truth[:, label] > 0 if multilabel else truth == label]
            if len(mine):
                model.head.weight[label] = (mine.mean(0) - middle).to(model.head.weight)
        model.head.bias.zero_()
        if multilabel:
            often = (truth.sum(0) + 0.5) / (len(truth) + 1)
            scale = model.log_head_scale.detach().exp()
            model.head.bias.copy_(logit(often).to(model.head.bias) / scale)


def label_loss(
    model: RetrievalAugmentedModel, batch: Batch, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """The loss of some rows, the mean over them: truth [b], or of independent labels [b, L]."""
    h, mask = adapted(model, batch)
    memory = batch.memory if config.retrieval else batch.memory.closed()
    logits, _, _ = model.classify(h, mask, memory)
    multilabel, smoothing = model.config.multilabel, config.label_smoothing
    truth = batch.truth * (1 - smoothing) + smoothing / 2 if multilabel else batch.truth

    def scored(logits: Tensor) -> Tensor:
        return torch.sigmoid(logits.float()) if multilabel else logits

    def head_loss(scores: Tensor, truth: Tensor) -> Tensor:
        if multilabel:
            return binary_loss(scores, truth).sum(-1).mean()
        return F.cross_entropy(scores, truth, label_smoothing=smoothing)

    scores = scored(logits)
    loss = head_loss(scores, truth)
    if not config.retrieval:
        return loss
    vote = model.mixture(mean_pool(h, mask), batch.base, memory, len(model.config.labels))
    loss = loss + _vote_loss(config.neighbour_loss, vote.probs, batch.truth, memory)
    drawn = torch.rand(len(logits), generator=generator) < config.drop_retrieval
    keep = drawn.nonzero().squeeze(1)
    if len(keep):
        closed, _, _ = model.classify(h[keep], mask[keep], memory.rows(keep).closed())
        share, p, q = len(keep) / len(logits), scored(closed), scores[keep]
        loss = loss + share * head_loss(p, truth[keep])
        if multilabel:
            # Symmetric KL of two Bernoulli variables: (p - q)(logit p - logit q).
            pull = ((p - q) * (closed.float() - logits[keep].float())).sum(-1).mean()
        else:
            p, q = p.log_softmax(-1), q.log_softmax(-1)
            pull = F.kl_div(p, q, log_target=True, reduction="batchmean")
            pull = pull + F.kl_div(q, p, log_target=True, reduction="batchmean")
        loss = loss + config.consistency * share * pull / 2
    return loss


def _vote_loss(weight: float, probs: Tensor, truth: Tensor, memory: Memory) -> Tensor:
    """Of the neighbours' vote [b, L]. A label that no hit of a row carries teaches nothing."""
    if truth.ndim == 2:
        there = (memory.labels & memory.mask[..., None]).any(1)
        votes = binary_loss(probs.clamp(1e-3, 1 - 1e-3), truth) * there
        return weight * votes.sum(-1).mean()
    chance = probs.gather(1, truth[:, None]).squeeze(1)
    return -weight * chance[chance > SMALL].log().sum() / len(chance)
