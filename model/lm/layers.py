"""The layers of the language model: rotary attention over a window, its block, a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoder.rotary import rotate
from model.lm.config import LMConfig

NEVER = -1e4
"""Added to scores that may not be attended to; finite, so that an empty row has no NaN."""


@dataclass(slots=True)
class KeyValues:
    """What a layer keeps of tokens: keys and values [b, h, s, e], keys already turned."""

    keys: Tensor
    values: Tensor


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d], each vector scaled to a mean square of one."""
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), 1e-6)


class Attention(nn.Module):
    """Self-attention over the window."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.dim // config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, bias: Tensor, turn: Tensor, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """New tokens x [b, t, d] over past and new ones, and what is kept of both.

        `bias` [b, 1, t, s] is added to the scores, `turn` [2, t, e / 2] rotates the new tokens.
        """
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, turn), rotate(k, turn)  # [b, h, t, e]
        if past is not None:
            k, v = torch.cat([past.keys, k], 2), torch.cat([past.values, v], 2)
        scores = q @ k.transpose(-1, -2) * self.size**-0.5 + bias  # [b, h, t, s]
        y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, t, d)), KeyValues(k, v)


class Block(nn.Module):
    """Self-attention and a squared-ReLU MLP (So et al. 2021), each behind a norm."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.attention_norm, self.attention = Norm(dim), Attention(config)
        self.mlp_norm = Norm(dim)
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def forward(
        self, x: Tensor, bias: Tensor, turn: Tensor, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """States [b, t, d] -> states [b, t, d]; see `Attention.forward`."""
        y, seen = self.attention(self.attention_norm(x), bias, turn, past)
        x = x + y
        return x + self.down(F.relu(self.up(self.mlp_norm(x))).square()), seen


class ShortConvolution(nn.Module):
    """Each token gets something of the three before it: what stood before a word is how to find it.

    Depthwise and causal: a token depends on nothing that comes after it.
    """

    WIDTH = 4

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Signs differ by channel, so that the sum tells which word stood where.
        self.weight = nn.Parameter(torch.randn(self.WIDTH - 1, dim) * 0.5)
        self.mix = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[u, p, d] -> [u, p, d]."""
        y = x
        for back, weight in enumerate(self.weight.to(x.dtype), 1):
            y = y + F.pad(x, (0, 0, back, 0))[:, : x.shape[1]] * weight
        out: Tensor = x + self.mix(y)
        return out
