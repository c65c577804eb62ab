"""The copy head: a pointer to tokens of the retrieved passages and of the window.

A softmax over a sentinel and all tokens that are in view; what the sentinel gets goes to the
vocabulary's softmax (pointer sentinel mixture, Merity et al. 2017), the rest to the tokens pointed
at. Keys are made of the states of a token and of the one before it, so that a place is found by
what stood there and by what led to it (kNN-LM, Khandelwal et al. 2020, learned here).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.lm.config import LMConfig
from model.lm.layers import NEVER


@dataclass(slots=True)
class Targets:
    """What can be pointed at: tokens of the window up to now, and of each group's passages."""

    near_keys: Tensor  # [b, s, q]
    near_ids: Tensor  # [b, s]
    near_bias: Tensor  # [b, t, s], 0 or NEVER
    far_keys: Tensor | None  # [b, n, m, q]
    far_ids: Tensor  # [b, n, m]
    far_bias: Tensor  # [b, n, m], 0 or NEVER


class CopyHead(nn.Module):
    """Turns states and targets into a mixture with the vocabulary's own probabilities."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim, size = config.dim, config.copy_dim
        self.query = nn.Linear(dim, size, bias=False)
        self.near = nn.Linear(2 * dim, size, bias=False)
        self.far = nn.Linear(2 * dim, size, bias=False) if config.memory != "none" else None
        self.sentinel = nn.Linear(dim, 1)
        nn.init.constant_(self.sentinel.bias, 4.0)  # begins nearly closed
        self.size = size

    def near_keys(self, states: Tensor, before: Tensor | None = None) -> Tensor:
        """Keys [b, s, q] of the window's states [b, s, d]; `before` [b, 1, d] is what led to it."""
        keys: Tensor = self.near(with_previous(states, before))
        return keys

    def far_keys(self, states: Tensor) -> Tensor | None:
        """Keys [u, p, q] of the passages' states [u, p, d]."""
        return None if self.far is None else self.far(with_previous(states))

    def forward(self, x: Tensor, targets: Targets) -> Tensor:
        """Logarithms of the weights [b, n, c, 1 + s + m] of sentinel, window and passages."""
        b, n, c, _ = x.shape
        q = self.query(x)
        near = q.view(b, n * c, -1) @ targets.near_keys.transpose(-1, -2)
        near = near.float() * self.size**-0.5 + targets.near_bias
        scores = [self.sentinel(x).float(), near.view(b, n, c, -1)]
        if targets.far_keys is not None:
            far = (q @ targets.far_keys.transpose(-1, -2)).float() * self.size**-0.5
            scores.append(far + targets.far_bias[:, :, None])
        return torch.cat(scores, -1).log_softmax(-1)


def with_previous(states: Tensor, before: Tensor | None = None) -> Tensor:
    """[r, s, d] as [r, s, 2 d]: each state beside the one before it."""
    if before is None:
        before = torch.zeros_like(states[:, :1])
    return torch.cat([states, torch.cat([before, states[:, :-1]], 1)], -1)


def target_mixture(weights: Tensor, log_probs: Tensor, wanted: Tensor, targets: Targets) -> Tensor:
    """Log-probabilities [b, n, c] of wanted tokens, of which the vocabulary says `log_probs`."""
    same = [targets.near_ids[:, None, None, :] == wanted[..., None]]
    if targets.far_keys is not None:
        same.append(targets.far_ids[:, :, None, :] == wanted[..., None])
    pointed = weights[..., 1:].masked_fill(~torch.cat(same, -1), NEVER).logsumexp(-1)
    return torch.logaddexp(weights[..., 0] + log_probs, pointed)


def full_mixture(weights: Tensor, log_probs: Tensor, targets: Targets) -> Tensor:
    """Log-probabilities [b, n, c, v] of every token, of which the vocabulary says `log_probs`."""
    b, n, c, _ = log_probs.shape
    ids = [targets.near_ids[:, None, None, :].expand(b, n, c, -1)]
    if targets.far_keys is not None:
        ids.append(targets.far_ids[:, :, None, :].expand(b, n, c, -1))
    probs = (weights[..., :1] + log_probs).exp()
    return probs.scatter_add(-1, torch.cat(ids, -1), weights[..., 1:].exp()).log()
