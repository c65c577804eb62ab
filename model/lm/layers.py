"""The layers of the language model: rotary attention over a window and a memory, and its block.

Tokens come in groups, all of which see the same passages: [b, n, c, d] is n groups of c tokens. In
training a group is a chunk; in generation there is one group, the tokens that are new.
"""

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
    """What a layer keeps of tokens: keys and values [..., h, s, e], keys already turned."""

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
    """Self-attention over the window and, in the `prefix` form, over the passages before it."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.dim // config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [r, h, t, e] of x [r, t, d]."""
        r, t, _ = x.shape
        q, k, v = self.qkv(x).view(r, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        turn: Tensor,
        past: KeyValues | None = None,
        memory: tuple[KeyValues, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """X [b, n, c, d] with `bias` [b, 1, t, s] over past and new tokens; what is kept of them.

        `memory`: keys and values [b, n, h, m, e], their bias [b, n, 1, 1, m], and how the queries
        are turned towards them [2, t, e / 2].
        """
        b, n, c, d = x.shape
        q, k, v = self.split(x.view(b, n * c, d))
        near = rotate(q, turn)
        kept = KeyValues(rotate(k, turn), v)
        if past is not None:
            kept = KeyValues(
                torch.cat([past.keys, kept.keys], 2), torch.cat([past.values, kept.values], 2)
            )
        scores = near @ kept.keys.transpose(-1, -2) * self.size**-0.5 + bias  # [b, h, t, s]
        if memory is None:
            y = scores.softmax(-1) @ kept.values
        else:
            there, hidden, turn_far = memory
            far = grouped(rotate(q, turn_far), n) @ there.keys.transpose(-1, -2)
            far = far * self.size**-0.5 + hidden  # [b, n, h, c, m]
            s = scores.shape[-1]
            weights = torch.cat([grouped(scores, n), far], -1).softmax(-1)
            y = ungrouped(weights[..., :s]) @ kept.values
            y = y + ungrouped(weights[..., s:] @ there.values)
        return self.out(y.transpose(1, 2).reshape(b, n, c, d)), kept


class CrossAttention(nn.Module):
    """From each group's tokens to its passages; a learned null entry is always there."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.dim // config.heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key_value = nn.Linear(config.dim, 2 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.null = nn.Parameter(torch.zeros(2, self.heads, 1, self.size))

    def keep(self, states: Tensor) -> KeyValues:
        """Keys and values [u, h, p, e] of passages [u, p, d]."""
        u, p, _ = states.shape
        k, v = self.key_value(states).view(u, p, 2, self.heads, self.size).permute(2, 0, 3, 1, 4)
        return KeyValues(k, v)

    def forward(self, x: Tensor, there: KeyValues, hidden: Tensor) -> Tensor:
        """X [b, n, c, d]; keys and values [b, n, h, m, e], their bias [b, n, 1, 1, m]."""
        b, n, c, d = x.shape
        q = self.query(x).view(b, n, c, self.heads, self.size).transpose(2, 3)
        null = self.null.to(q.dtype)
        scores = torch.cat([q @ null[0].transpose(-1, -2),
                            q @ there.keys.transpose(-1, -2) + hidden], -1)  # fmt: skip
        weights = (scores * self.size**-0.5).softmax(-1)
        y = weights[..., 1:] @ there.values + weights[..., :1] * null[1]
        out: Tensor = self.out(y.transpose(2, 3).reshape(b, n, c, d))
        return out


class Block(nn.Module):
    """Self-attention, cross-attention where the configuration says so, and a squared-ReLU MLP."""

    def __init__(self, config: LMConfig, *, cross: bool = False) -> None:
        super().__init__()
        dim = config.dim
        self.attention_norm, self.attention = Norm(dim), Attention(config)
        self.cross_norm = Norm(dim) if cross else None
        self.cross = CrossAttention(config) if cross else None
        self.mlp_norm = Norm(dim)
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def mlp(self, x: Tensor) -> Tensor:
        """The part that looks at one position (squared ReLU: So et al. 2021)."""
        out: Tensor = self.down(F.relu(self.up(self.mlp_norm(x))).square())
        return out


class ShortConvolution(nn.Module):
    """Each token gets something of the three before it: what stood before a word is how to find it.

    Depthwise and causal, so a passage's tokens do not depend on their neighbours' order beyond it.
    """

    WIDTH = 4

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Signs differ by channel, so that the sum tells which word stood where.
        self.weight = nn.Parameter(torch.randn(self.WIDTH - 1, dim) * 0.5)
        self.mix = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[u, p, d]."""
        y = x
        for back, weight in enumerate(self.weight.to(x.dtype), 1):
            y = y + F.pad(x, (0, 0, back, 0))[:, : x.shape[1]] * weight
        out: Tensor = x + self.mix(y)
        return out


def grouped(x: Tensor, n: int) -> Tensor:
    """[b, h, n c, e] as [b, n, h, c, e]."""
    b, h, t, e = x.shape
    return x.view(b, h, n, t // n, e).transpose(1, 2)


def ungrouped(x: Tensor) -> Tensor:
    """[b, n, h, c, e] as [b, h, n c, e]."""
    b, n, h, c, e = x.shape
    return x.transpose(1, 2).reshape(b, h, n * c, e)
