"""Fusion layers: the states of a text attend to themselves and to a memory of its hits.

Finding nothing is a normal input: a learned null entry stands in every memory, as in RETRO
(Borgeaud et al. 2022).
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HeadConfig
from model.labels.memory import UNLABELLED, Memory


class FusionLayer(nn.Module):
    """A pre-norm Transformer decoder layer without a causal mask (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_cross, self.norm_ffn = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.out_self = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out_cross = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        """[b, n, f] -> [b, heads, n, f / heads]."""
        b, n, f = x.shape
        return x.view(b, n, self.heads, f // self.heads).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """-> mixed values [b, n, f], weights [b, heads, n, m]; bias broadcasts to the weights."""
        q, k, v = self.split(q), self.split(k), self.split(v)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        mixed = (weights @ v).transpose(1, 2)
        return mixed.reshape(mixed.shape[0], mixed.shape[1], -1), weights

    def attended(
        self, h: Tensor, memory: Tensor, self_bias: Tensor, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States [b, t, f], memory [b, k+1, f] -> states [b, t, f], weights [b, heads, t, k+1].

        Of one text over several memories (h with b = 1) what hangs on the text is computed once.
        """
        q, k, v = self.qkv(self.norm_self(h)).chunk(3, dim=-1)
        h = h + self.dropout(self.out_self(self.attend(q, k, v, self_bias)[0]))
        k, v = self.kv(memory).chunk(2, dim=-1)
        mixed, weights = self.attend(self.query(self.norm_cross(h)), k, v, memory_bias)
        return h + self.dropout(self.out_cross(mixed)), weights

    def hidden(self, h: Tensor) -> Tensor:
        """The inner states of the feed-forward part, [b, t, 2f]."""
        return F.gelu(self.up(self.norm_ffn(h)))

    def forward(
        self, h: Tensor, memory: Tensor, self_bias: Tensor, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`attended`, and the feed-forward part; the same shapes."""
        h, weights = self.attended(h, memory, self_bias, memory_bias)
        return h + self.dropout(self.down(self.hidden(h))), weights


class Fusion(nn.Module):
    """`x` attends to itself and to its hits, at a width below the encoder's; starts as identity."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        f = config.fusion_dim
        self.k, self.n_labels = config.fusion_k, len(config.labels)
        self.down = nn.Linear(config.dim, f)
        self.vector = nn.Linear(config.dim, f)
        # The last two: a label that the head does not know, and none.
        self.label = nn.Embedding(self.n_labels + 2, f)
        self.rank = nn.Embedding(config.fusion_k, f)
        self.score = nn.Linear(1, f)
        self.null = nn.Parameter(torch.zeros(f))
        self.norm = nn.LayerNorm(f)
        self.layers = nn.ModuleList(
            FusionLayer(f, config.fusion_heads, config.dropout) for _ in range(config.fusion_layers)
        )
        self.up = nn.Linear(f, config.dim)
        for embedding in (self.label, self.rank):
            nn.init.normal_(embedding.weight, std=0.2)
        nn.init.normal_(self.null, std=0.2)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def entries(self, memory: Memory) -> Tensor:
        """Hits -> memory entries [b, k+1, f], the null entry first."""
        b, k = memory.mask.shape
        # Unit vectors have small entries; the factor puts them on the scale of the embeddings.
        entries = self.vector(memory.vectors * math.sqrt(memory.vectors.shape[-1]) * 0.5)
        entries = entries + self.labels(memory.labels) + self.score(memory.scores[..., None])
        entries = entries + self.rank(torch.arange(k, device=entries.device))  # [b, k, f]
        null = self.null.expand(b, 1, -1)
        normed: Tensor = self.norm(torch.cat([null, entries], dim=1))
        return normed

    def labels(self, labels: Tensor) -> Tensor:
        """Embeddings [b, k, f] of labels [b, k]; of marks [b, k, U] the mean of a hit's."""
        n = self.n_labels
        if labels.ndim == 2:
            unknown = torch.full_like(labels, n)
            labels = torch.where(labels < n, labels, unknown)
            labels = torch.where(labels == UNLABELLED, unknown + 1, labels)
            return cast(Tensor, self.label(labels))
        new = labels[..., n:].any(-1, keepdim=True)
        marks = torch.cat([labels[..., :n], new, ~labels.any(-1, keepdim=True)], dim=-1)
        weight = self.label.weight
        return (marks / marks.sum(-1, keepdim=True)).to(weight.dtype) @ weight

    def forward(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """States [b, t, d] -> fused states [b, t, d], attention on each hit [b, k]."""
        x, total = self.down(h), torch.zeros_like(memory.first(self.k).scores)
        shared = self._shared(h, mask, memory)
        for layer in self.layers:
            x, weights = layer(x, *shared)
            total = total + self._share(weights, mask)
        return h + self.up(x), total

    def mean(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """`forward` with its states averaged, [b, d]: a linear map is made of the mean alone.

        Without dropout, so for inference only.
        """
        x, total = self.down(h), torch.zeros_like(memory.first(self.k).scores)
        shared = self._shared(h, mask, memory)
        last = cast(FusionLayer, self.layers[-1])
        for layer in list(self.layers)[:-1]:
            x, weights = layer(x, *shared)
            total = total + self._share(weights, mask)
        x, weights = last.attended(x, *shared)
        total = total + self._share(weights, mask)
        out = _masked_mean(x, mask) + last.down(_masked_mean(last.hidden(x), mask))
        return _masked_mean(h, mask) + self.up(out), total

    def _shared(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """What every layer takes: memory entries, and the masks of text and memory as biases."""
        memory = memory.first(self.k)
        present = F.pad(memory.mask, (1, 0), value=True)
        floor = torch.finfo(h.dtype).min
        self_bias = torch.zeros_like(mask, dtype=h.dtype).masked_fill(~mask, floor)[:, None, None]
        memory_bias = torch.zeros_like(present, dtype=h.dtype).masked_fill(~present, floor)
        return self.entries(memory), self_bias, memory_bias[:, None, None]

    def _share(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Attention weights of one layer -> its part of the attention on each hit [b, k]."""
        share = _masked_mean(weights.mean(1), mask)  # [b, k+1]
        return share[:, 1:] / len(self.layers)


def _masked_mean(h: Tensor, mask: Tensor) -> Tensor:
    """States [b, t, n] -> [b, n]."""
    weights = mask[:, :, None].to(h.dtype)
    return (h * weights).sum(1) / weights.sum(1)
