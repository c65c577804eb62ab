"""Low-rank adapters on the frozen encoder's linear layers (LoRA, Hu et al. 2021).

`W x` becomes `W x + B A x` with A [rank, in] and B [out, rank]. B starts at zero, so an untrained
adapter changes nothing, and an adapter is exchanged without touching the encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(nn.Module):
    """`x -> B A x`, the change to one linear layer."""

    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, d_in))
        self.b = nn.Parameter(torch.zeros(d_out, rank))
        nn.init.normal_(self.a, std=d_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] -> [..., d_out]."""
        return F.linear(F.linear(x, self.a), self.b)


class LayerAdapter(nn.Module):
    """The adapters of one encoder layer: attention in and out, feed-forward in and out."""

    def __init__(self, dim: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.query = LowRank(dim, dim, rank)
        self.key = LowRank(dim, dim, rank)
        self.value = LowRank(dim, dim, rank)
        self.out = LowRank(dim, dim, rank)
        self.up = LowRank(dim, hidden, rank)
        self.down = LowRank(hidden, dim, rank)

    def qkv(self, x: Tensor) -> Tensor:
        """[b, t, d] -> [b, t, 3d], beside the layer's fused projection."""
        return torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)


class Adapter(nn.Module):
    """Adapters for the top `layers` layers of an encoder."""

    def __init__(self, dim: int, hidden: int, *, layers: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LayerAdapter(dim, hidden, rank) for _ in range(layers))
