"""The retrieval-augmented Transformer of one label field, from top to bottom.

The text `x` goes through the frozen encoder with this head's low-rank adapter; fusion layers let
its states attend to a memory of the hits `D` (`model.labels.fusion`); a linear head reads the mean
state; the text's n-grams are weighed beside it (`model.labels.ngrams`); and the hits' own labels
(`model.labels.neighbours`) are mixed in (`model.labels.gate`; of independent labels,
`model.labels.multilabel`). The hits are given: nothing here retrieves. For sizes see
`model.labels.memory`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HeadConfig
from model.encoder.adapter import Adapter
from model.encoder.encoder import Encoder, mean_pool
from model.labels.fusion import Fusion
from model.labels.gate import Gate
from model.labels.memory import Memory, Retrieved, make_memory
from model.labels.multilabel import IndependentGate
from model.labels.neighbours import SMALL, NeighbourMixture, Neighbours
from model.labels.ngrams import NGrams


class Reading(NamedTuple):
    """All that a batch's prediction is made of."""

    logits: Tensor  # [b, L]
    neighbours: Neighbours
    attention: Tensor  # [b, k] the fusion's attention on each hit, null excluded
    pooled: Tensor  # [b, d]


class RetrievalAugmentedModel(nn.Module):
    """One head over a shared frozen encoder. The encoder is not among the parameters."""

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.adapter = Adapter(encoder.shapes, layers=config.layers, rank=config.rank)
        self.fusion = Fusion(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(encoder.dim, len(config.labels))
        self.log_head_scale = nn.Parameter(torch.tensor(math.log(12.0)))
        self.mixture = NeighbourMixture(encoder.dim)
        self.gate = IndependentGate() if config.multilabel else Gate(config.novel)
        self.ngrams = NGrams(config.ngrams, len(config.labels)) if config.ngrams else None

    def forward(self, x: Sequence[str], retrieved_docs: Sequence[Sequence[Retrieved]]) -> Tensor:
        """Texts and their hits -> log p(y | x, D), [b, L].

        These are logits for `nn.CrossEntropyLoss` (they are normalised already). Hits with a label
        that is not the head's count for no label here; `Reader.predict` unites the labels.
        """
        tokens = self.encoder.tokenize(x)
        ids, mask = self.encoder.pad(tokens)
        lower = self.encoder.lower(ids, mask, self.config.layers)
        with torch.no_grad():
            states = self.encoder.layers(lower, mask, self.first_layer, self.encoder.depth)
        base = self.encoder.pool(states, mask)
        labels, multilabel = self.config.labels, self.config.multilabel
        memory = make_memory(
            retrieved_docs, labels, self.encoder.dim, self.config.k, multilabel=multilabel
        )
        reading = self.read(self.adapted(lower, mask), mask, base, memory, len(labels))
        logits = reading.logits + self.wide(tokens).to(reading.logits.device)
        probs = self.gate(logits, reading.neighbours).probs
        answer: Tensor = probs.clamp(min=SMALL).log()
        return answer

    @property
    def first_layer(self) -> int:
        """The lowest encoder layer that carries an adapter."""
        return self.encoder.depth - self.config.layers

    def adapted(self, lower: Tensor, mask: Tensor) -> Tensor:
        """States below the adapted layers [b, t, d] -> adapted token states [b, t, d]."""
        top = self.encoder.depth
        return self.encoder.layers(lower, mask, self.first_layer, top, self.adapter)

    def wide(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """What the n-grams of texts add to their logits, [b, L] on the CPU."""
        if self.ngrams is None:
            return torch.zeros(len(token_ids), len(self.config.labels))
        logits: Tensor = self.ngrams(token_ids)
        return logits

    def classify(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Adapted states [b, t, d] -> logits [b, L], attention on hits [b, k], pooled [b, d]."""
        if self.training:
            fused, attention = self.fusion(h, mask, memory)
            pooled = mean_pool(fused, mask)
        else:
            mean, attention = self.fusion.mean(h, mask, memory)
            pooled = F.normalize(mean, dim=-1)
        logits = self.log_head_scale.exp() * self.head(self.dropout(pooled))
        return logits, attention, pooled

    def read(self, h: Tensor, mask: Tensor, base: Tensor, memory: Memory, n_labels: int) -> Reading:
        """Adapted states, base vectors [b, d] and hits -> everything but the mixture."""
        logits, attention, pooled = self.classify(h, mask, memory)
        attention = F.pad(attention, (0, memory.mask.shape[1] - attention.shape[1]))
        neighbours = self.mixture(mean_pool(h, mask), base, memory, n_labels)
        return Reading(logits, neighbours, attention * memory.mask, pooled)
