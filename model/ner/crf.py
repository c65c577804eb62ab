"""A linear-chain conditional random field over IOB2 tags (Lafferty, McCallum and Pereira 2001).

Tags are numbered O = 0, then B and I of each type in turn. What IOB2 forbids (I of a type after
anything but B or I of it) has no probability, so every path is a set of spans. Training runs over
batches in torch; one sentence is decoded in numpy, which is faster for arrays of this size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
FORBIDDEN = -1e4
Span = tuple[int, int, int]
"""First word, word after the last, type."""


class Crf(nn.Module):
    """Scores of tag sequences: emissions [b, w, n] plus learned transitions [n, n]."""

    forbidden: Tensor
    forbidden_start: Tensor

    def __init__(self, types: int) -> None:
        super().__init__()
        start, transitions = constraints(types)
        self.start = nn.Parameter(torch.zeros(len(start)))
        self.transitions = nn.Parameter(torch.zeros(transitions.shape))
        self.register_buffer("forbidden_start", torch.from_numpy(start).float(), persistent=False)
        self.register_buffer("forbidden", torch.from_numpy(transitions).float(), persistent=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Start scores [n] and transition scores [n, n] (from, to), constraints included."""
        return self.start + self.forbidden_start, self.transitions + self.forbidden

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood [b] of tags [b, w] under mask [b, w]; at least one word each."""
        return nll(emissions, tags, mask, *self.tables())


def nll(
    emissions: Tensor, tags: Tensor, mask: Tensor, start: Tensor, transitions: Tensor
) -> Tensor:
    """Negative log-likelihood [b] of tags [b, w] by the forward algorithm."""
    picked = emissions.gather(2, tags[:, :, None]).squeeze(2)
    steps = transitions[tags[:, :-1], tags[:, 1:]] + picked[:, 1:]
    score = start[tags[:, 0]] + picked[:, 0] + (steps * mask[:, 1:]).sum(1)
    alpha = start + emissions[:, 0]
    for t in range(1, emissions.shape[1]):
        step = torch.logsumexp(alpha[:, :, None] + transitions, dim=1) + emissions[:, t]
        alpha = torch.where(mask[:, t, None], step, alpha)
    return torch.logsumexp(alpha, dim=1) - score


def constraints(types: int) -> tuple[Array, Array]:
    """What may begin a sentence and what may follow what: 0, or `FORBIDDEN`."""
    n = 2 * types + 1
    start, transitions = np.zeros(n), np.zeros((n, n))
    for inside in range(2, n, 2):
        start[inside] = FORBIDDEN
        transitions[:, inside] = FORBIDDEN
        transitions[[inside - 1, inside], inside] = 0.0
    return start, transitions


@dataclass(frozen=True, slots=True)
class Decoded:
    """The best path of one sentence, and how probable its spans are."""

    spans: list[Span]
    probs: list[float]
    path: float  # probability of the whole path


def decode(emissions: Array, start: Array, transitions: Array) -> Decoded:
    """Viterbi, and forward-backward for the probabilities, of emissions [w, n]."""
    if not len(emissions):
        return Decoded([], [], 1.0)
    best, back = start + emissions[0], []
    alpha = [start + emissions[0]]
    for emission in emissions[1:]:
        step = best[:, None] + transitions
        back.append(step.argmax(0))
        best = step.max(0) + emission
        alpha.append(_logsumexp(alpha[-1][:, None] + transitions) + emission)
    tags = [int(best.argmax())]
    for pointers in reversed(back):
        tags.append(int(pointers[tags[-1]]))
    tags.reverse()
    beta = [np.zeros(emissions.shape[1])]
    for emission in emissions[:0:-1]:
        beta.append(_logsumexp((transitions + emission + beta[-1]).T))
    beta.reverse()
    total = float(_logsumexp(alpha[-1]))
    spans = spans_of(tags)
    probs = [_span_prob(span, emissions, transitions, alpha, beta, total) for span in spans]
    return Decoded(spans, probs, float(np.exp(min(0.0, float(best.max()) - total))))


def _span_prob(
    span: Span,
    emissions: Array,
    transitions: Array,
    alpha: Sequence[Array],
    beta: Sequence[Array],
    total: float,
) -> float:
    """The probability that exactly this span is tagged so, over all tags of the other words."""
    first, stop, kind = span
    begin, inside = 2 * kind + 1, 2 * kind + 2
    score, last = float(alpha[first][begin]), begin
    for t in range(first + 1, stop):
        score += float(transitions[last, inside] + emissions[t, inside])
        last = inside
    if stop < len(emissions):
        after = transitions[last] + emissions[stop] + beta[stop]
        score += float(_logsumexp(np.delete(after, inside)))
    return float(np.exp(min(0.0, score - total)))


def spans_of(tags: Sequence[int]) -> list[Span]:
    """The spans of a tag sequence; an I that continues nothing begins a span."""
    spans: list[Span] = []
    for t, tag in enumerate(tags):
        if tag == 0:
            continue
        kind = (tag - 1) // 2
        follows = tag % 2 == 0 and spans and spans[-1][1] == t and spans[-1][2] == kind
        if follows:
            spans[-1] = (spans[-1][0], t + 1, kind)
        else:
            spans.append((t, t + 1, kind))
    return spans


def tags_of(spans: Sequence[Span], words: int) -> list[int]:
    """IOB2 tags of spans that do not overlap: the inverse of `spans_of`."""
    tags = [0] * words
    for first, stop, kind in spans:
        tags[first] = 2 * kind + 1
        tags[first + 1 : stop] = [2 * kind + 2] * (stop - first - 1)
    return tags


def _logsumexp(values: Array) -> Array:
    """Over the first axis."""
    top = values.max(0)
    total: Array = top + np.log(np.exp(values - top).sum(0))
    return total
