"""Long texts: read in windows, each by itself, their token states laid end to end.

A text's token ids are one flat list. What is longer than a window is a sequence of windows, each
with its own start and end marks and all but the last exactly as long as a window, so that the list
alone says where they begin. The encoder sees windows; fusion and pooling see the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def spread(count: int, most: int) -> list[int]:
    """Which of `count` windows are read: all, or the first, the last and evenly spaced others."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def split_windows(token_ids: Sequence[Sequence[int]], size: int) -> list[list[Sequence[int]]]:
    """Each text's windows, one at least."""
    return [
        [row[start : start + size] for start in range(0, max(len(row), 1), size)]
        for row in token_ids
    ]


def join_windows(h: Tensor, mask: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """States [w, t, d] of windows, `counts` of them a text -> states [b, T, d] and mask [b, T]."""
    if all(count == 1 for count in counts):
        return h, mask
    ends = torch.tensor(counts).cumsum(0).to(mask.device)
    tokens = mask.sum(1).cumsum(0)[ends - 1]  # [b] counted from the first text on
    lengths = torch.diff(tokens, prepend=tokens.new_zeros(1))
    whole = torch.arange(int(lengths.max()), device=mask.device)[None, :] < lengths[:, None]
    out = h.new_zeros(*whole.shape, h.shape[-1])
    out[whole] = h[mask]  # both run through the tokens in the same order
    return out, whole
