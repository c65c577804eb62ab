"""What a head of labels starts from, and what it is trained by.

Both losses have four terms: the head with the hits, the neighbours' vote, the head with the book
closed on some of the rows, and the symmetric KL that pulls the two answers of the head together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TrainConfig
from model.encoder.encoder import mean_pool
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
    """The loss of some rows."""
    loss = multilabel_loss if model.config.multilabel else one_label_loss
    return loss(model, batch, config, generator)


def one_label_loss(
    model: RetrievalAugmentedModel, batch: Batch, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """For rows of one label each: truth [b] and a softmax over the labels."""
    h, mask = adapted(model, batch)
    memory = batch.memory if config.retrieval else batch.memory.closed()
    logits, _, _ = model.classify(h, mask, memory)
    smoothing = config.label_smoothing
    loss = F.cross_entropy(logits, batch.truth, label_smoothing=smoothing)
    if not config.retrieval:
        return loss
    query = mean_pool(h, mask)
    vote = model.mixture(query, batch.base, memory, len(model.config.labels))
    chance = vote.probs.gather(1, batch.truth[:, None]).squeeze(1)
    there = chance > SMALL  # rows whose label no hit carries teach the weights nothing
    if bool(there.any()):
        loss = loss - config.neighbour_loss * chance[there].log().sum() / len(chance)
    keep = closed_rows(len(logits), config, generator)
    if len(keep):
        closed, _, _ = model.classify(h[keep], mask[keep], memory.rows(keep).closed())
        share = len(keep) / len(logits)
        loss = loss + share * F.cross_entropy(closed, batch.truth[keep], label_smoothing=smoothing)
        p, q = closed.log_softmax(-1), logits[keep].log_softmax(-1)
        pull = F.kl_div(p, q, log_target=True, reduction="batchmean")
        pull = pull + F.kl_div(q, p, log_target=True, reduction="batchmean")
        loss = loss + config.consistency * share * pull / 2
    return loss


def multilabel_loss(
    model: RetrievalAugmentedModel, batch: Batch, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """For rows of independent labels: truth [b, L], a binary loss each, summed over a row."""
    h, mask = adapted(model, batch)
    memory = batch.memory if config.retrieval else batch.memory.closed()
    logits, _, _ = model.classify(h, mask, memory)
    smooth = config.label_smoothing
    truth = batch.truth * (1 - smooth) + smooth / 2
    opened = torch.sigmoid(logits.float())
    loss = binary_loss(opened, truth).sum(-1).mean()
    if not config.retrieval:
        return loss
    vote = model.mixture(mean_pool(h, mask), batch.base, memory, truth.shape[1])
    # A label that no hit of a row carries teaches the weights nothing about that row.
    there = (memory.labels & memory.mask[..., None]).any(1)
    shares = vote.probs.clamp(1e-3, 1 - 1e-3)
    votes = binary_loss(shares, batch.truth) * there
    loss = loss + config.neighbour_loss * votes.sum(-1).mean()
    keep = closed_rows(len(logits), config, generator)
    if len(keep):
        closed, _, _ = model.classify(h[keep], mask[keep], memory.rows(keep).closed())
        share = len(keep) / len(logits)
        p, q = torch.sigmoid(closed.float()), opened[keep]
        loss = loss + share * binary_loss(p, truth[keep]).sum(-1).mean()
        # Symmetric KL of two Bernoulli variables: (p - q)(logit p - logit q).
        pull = ((p - q) * (closed.float() - logits[keep].float())).sum(-1).mean()
        loss = loss + config.consistency * share * pull / 2
    return loss


def closed_rows(n: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Which of n rows are also seen with the book closed."""
    drawn = torch.rand(n, generator=generator) < config.drop_retrieval
    return drawn.nonzero().squeeze(1)
