"""Fields whose values are lists of labels: answered by their head, or by the neighbours alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from model.labels.memory import Retrieved, make_memory
from model.labels.multilabel import IndependentGate
from model.labels.neighbours import NEIGHBOURS, plain_vote
from model.labels.network import RetrievalAugmentedModel
from model.labels.prediction import EXACT_SHARE, Prediction, nothing
from model.labels.query_state import QueryState, read_hits


def by_head(
    network: RetrievalAugmentedModel,
    states: Sequence[QueryState],
    hits: Sequence[Sequence[Retrieved]],
    labels: list[str],
) -> list[Prediction]:
    """A field whose values are lists, by its head."""
    gate = network.gate
    assert isinstance(gate, IndependentGate)  # `HeadConfig.multilabel` says so
    k = network.config.k
    base = torch.from_numpy(np.stack([state.vector for state in states]))
    memory = make_memory(hits, labels, base.shape[1], k, multilabel=True)
    reading = read_hits(network, states, base, memory, len(labels))
    mixture = gate(reading.logits, reading.neighbours)
    weights = mixture.gate[:, None] * reading.neighbours.weights
    weights = weights + (1 - mixture.gate[:, None]) * reading.attention
    answers: list[Prediction] = []
    for i, row in enumerate(hits):
        probs = mixture.probs[i].numpy()
        decided = [labels.index(name) for hit in row if hit.exact for name in hit.names]
        # A person's label of this very text is one of the right ones; others may be too.
        probs[decided] = EXACT_SHARE + (1 - EXACT_SHARE) * probs[decided]
        best = int(probs.argmax())
        pairs = zip(reading.neighbours.similarity[i].tolist(), row, strict=False)
        near = [cosine for cosine, hit in pairs if labels[best] in hit.names]
        used = weights[i, : len(row)].tolist()
        answers.append(
            Prediction(
                label=labels[best],
                labels=labels,
                probs=probs,
                confidence=float(probs[best]),
                calibrated=True,
                support=1.0 if best in decided else min(1.0, max([0.0, *near])),
                weights=used + [0.0] * (len(row) - len(used)),
                gate=float(mixture.gate[i]),
                multi=True,
                decided=bool(decided),
                threshold=float(gate.threshold),
            )
        )
    return answers


def by_neighbours(state: QueryState, hits: Sequence[Retrieved], labels: list[str]) -> Prediction:
    """A field whose values are lists: each label's share of the neighbours' weight."""
    flat = [replace(hit, label="") for hit in hits if hit.names]
    if not flat:
        return nothing(len(hits))
    memory = make_memory([flat], [""], len(state.vector), NEIGHBOURS)
    vote_ = plain_vote(torch.from_numpy(state.vector)[None], memory, 1)
    share = iter(vote_.weights[0].tolist())
    weights = [next(share, 0.0) if hit.names else 0.0 for hit in hits]
    probs = np.zeros(len(labels), dtype=np.float32)
    for hit, weight in zip(hits, weights, strict=True):
        for label in {*hit.names}:
            probs[labels.index(label)] += weight
    probs = probs.clip(0.0, 1.0)
    best = int(probs.argmax())
    return Prediction(
        label=labels[best],
        labels=labels,
        probs=probs,
        confidence=float(probs[best]),
        calibrated=False,
        support=max(0.0, float(vote_.similarity.max())) * float(probs[best]),
        weights=weights,
        gate=1.0,
        multi=True,
    )
