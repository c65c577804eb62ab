"""Places that turn queries and keys, so that attention sees distances: RoPE (Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(positions: Tensor, size: int) -> Tensor:
    """Cosines and sines [2, t, size / 2] of RoPE (Su et al. 2021) for some positions [t]."""
    rates = 10_000.0 ** -(torch.arange(0, size, 2, device=positions.device).float() / size)
    angles = positions.float()[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the halves of x [..., t, e] by `turn` [2, t, e / 2]."""
    a, b = x.chunk(2, -1)
    cos, sin = turn.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def halves(weights: Tensor, heads: int) -> Tensor:
    """Rows [d, ...] of a query's or key's layer that turns neighbours -> of one for `rotate`.

    RoFormer turns an even number of a head together with the one after it, `rotate` one of the
    first half with one of the second. Queries and keys in one order have the same products.
    """
    parts: Tensor = weights.unflatten(0, (heads, -1, 2))  # [h, e / 2, 2, ...]
    ordered: Tensor = parts.transpose(1, 2).reshape(weights.shape)
    return ordered
