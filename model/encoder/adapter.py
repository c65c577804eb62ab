"""Low-rank adapters on the frozen encoder's linear layers (LoRA, Hu et al. 2021).

`W x` becomes `W x + B A x` with A [rank, in] and B [out, rank]. B starts at zero, so an untrained
adapter changes nothing, and an adapter is exchanged without touching the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, int]]
"""The linear layers of one encoder layer: name -> (in, out)."""


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

    def folded(self, weight: Tensor) -> Tensor:
        """`W + B A`, [d_out, d_in], summed in single precision, in the precision of W."""
        return (weight.float() + self.b.float() @ self.a.float()).to(weight.dtype)


class LayerAdapter(nn.Module):
    """The adapters of one encoder layer, one for each of its linear layers."""

    def __init__(self, shapes: Shapes, rank: int) -> None:
        super().__init__()
        for name, (d_in, d_out) in shapes.items():
            self.add_module(name, LowRank(d_in, d_out, rank))

    def of(self, name: str) -> LowRank:
        """The adapter of the linear layer `name`."""
        return cast(LowRank, self.get_submodule(name))

    def change(self, name: str, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]: what is added to the output of the linear layer `name`."""
        changed: Tensor = self.of(name)(x)
        return changed


class Adapter(nn.Module):
    """Adapters for the top `layers` layers of an encoder with layers of these shapes.

    `folded`: for inference, the encoder's top layers with the adapters in their weights, which
    take no longer than its own (`Encoder.fold`); no part of the state.
    """

    def __init__(self, shapes: Shapes, *, layers: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LayerAdapter(shapes, rank) for _ in range(layers))
        self.folded: list[Any] | None = None
