"""The copy head: a pointer to tokens of the retrieved passages and of the window.

A softmax over a sentinel and all tokens that are in view; what the sentinel gets goes to the
vocabulary's softmax (pointer sentinel mixture, Merity et al. 2017), the rest to the tokens pointed
at. Keys are made of the states of a token and of the one before it, so that a token is found by
what it is and by what led to it (kNN-LM, Khandelwal et al. 2020, learned here).

The t tokens of a row are n groups of equal size; each group has m passage tokens of its own.
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
    far_keys: Tensor  # [b, n, m, q]; m is 0 for a model that reads no passages
    far_ids: Tensor  # [b, n, m]
    far_bias: Tensor  # [b, n, m], 0 or NEVER


class CopyHead(nn.Module):
    """Turns states and targets into a mixture with the vocabulary's own probabilities."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        dim, size = config.dim, config.copy_dim
        self.query = nn.Linear(dim, size, bias=False)
        self.near = nn.Linear(2 * dim, size, bias=False)
        self.far = nn.Linear(2 * dim, size, bias=False) if config.k else None
        self.sentinel = nn.Linear(dim, 1)
        nn.init.constant_(self.sentinel.bias, 4.0)  # begins nearly closed
        self.size = size

    def near_keys(self, states: Tensor, before: Tensor | None = None) -> Tensor:
        """Keys [b, s, q] of the window's states [b, s, d]; `before` [b, 1, d] is what led to it."""
        keys: Tensor = self.near(_with_previous(states, before))
        return keys

    def far_keys(self, states: Tensor) -> Tensor:
        """Keys [u, p, q] of the passages' states [u, p, d], for a model that reads passages."""
        assert self.far is not None
        keys: Tensor = self.far(_with_previous(states))
        return keys

    def forward(self, x: Tensor, targets: Targets) -> Tensor:
        """States [b, t, d] -> log weights [b, t, 1 + s + m] of sentinel, window and passages."""
        q = self.query(x)
        near = (q @ targets.near_keys.transpose(-1, -2)).float() * self.size**-0.5
        near = near + targets.near_bias
        sentinel = self.sentinel(x).float()
        grouped = q.unflatten(1, (targets.far_keys.shape[1], -1))
        far = (grouped @ targets.far_keys.transpose(-1, -2)).float() * self.size**-0.5
        far = far + targets.far_bias[:, :, None]
        return torch.cat([sentinel, near, far.flatten(1, 2)], -1).log_softmax(-1)


def _with_previous(states: Tensor, before: Tensor | None = None) -> Tensor:
    """[r, s, d] as [r, s, 2 d]: each state beside the one before it."""
    if before is None:
        before = torch.zeros_like(states[:, :1])
    return torch.cat([states, torch.cat([before, states[:, :-1]], 1)], -1)


def target_mixture(weights: Tensor, log_probs: Tensor, ids: Tensor, targets: Targets) -> Tensor:
    """Log-probabilities [b, t] of the tokens `ids` [b, t]; the vocabulary gives `log_probs`."""
    near = targets.near_ids[:, None, :] == ids[..., None]
    grouped = ids.unflatten(1, (targets.far_ids.shape[1], -1))
    far = targets.far_ids[:, :, None, :] == grouped[..., None]
    same = torch.cat([near, far.flatten(1, 2)], -1)
    pointed = weights[..., 1:].masked_fill(~same, NEVER).logsumexp(-1)
    return torch.logaddexp(weights[..., 0] + log_probs, pointed)


def full_mixture(weights: Tensor, log_probs: Tensor, targets: Targets) -> Tensor:
    """Log-probabilities [b, t, v] of every token; the vocabulary gives `log_probs`."""
    b, t, _ = log_probs.shape
    near = targets.near_ids[:, None, :].expand(b, t, -1)
    far = targets.far_ids.repeat_interleave(t // targets.far_ids.shape[1], 1)
    probs = (weights[..., :1] + log_probs).exp()
    return probs.scatter_add(-1, torch.cat([near, far], -1), weights[..., 1:].exp()).log()
