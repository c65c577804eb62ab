"""Text from a language model, token by token, over a cache of keys and values.

`LMSession` is the interface: numbers go in, the log-probabilities of what comes next come out. It
holds the texts of a batch, which join and leave between any two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from model.encoder.rotary import rotate, rotations
from model.lm.config import PAD
from model.lm.layers import NEVER, KeyValues
from model.lm.network import LMMemory, Past, RetrievalLM


@dataclass(slots=True)
class LMSession:
    """Texts being generated, a row each, with passages of their own.

    Rows are padded on the left to the longest. Beyond the window a text's oldest half is forgotten
    and the rest reread. Positions are relative, so a row that is moved has its keys turned.
    """

    model: RetrievalLM
    memory: LMMemory
    past: Past | None = None
    lengths: list[int] = field(default_factory=lambda: [0])  # of each row, in tokens

    @classmethod
    def begin(cls, model: RetrievalLM, passages: Sequence[Sequence[int]] = ()) -> LMSession:
        """One text, of which nothing was read yet."""
        return cls(model, read_passages(model, passages))

    def feed(self, ids: Sequence[int]) -> Tensor:
        """Append tokens to the one text; log-probabilities [v] of what comes after them.

        START begins a text.

        Raises:
            ValueError: No token, or a number that is no token.
        """
        assert len(self.lengths) == 1
        self._check(ids)
        left = [int(i) for i in ids]
        while True:
            room = self.model.config.window - self.lengths[0]
            if room == 0:
                self._forget([0])
                continue
            log_probs = self._advance([left[:room]])[0]
            left = left[room:]
            if not left:
                return log_probs

    def step(self, tokens: Sequence[int]) -> Tensor:
        """One more token for each text; log-probabilities [b, v] of the next.

        Raises:
            ValueError: A number that is no token.
        """
        self._check(tokens)
        full = [i for i, n in enumerate(self.lengths) if n == self.model.config.window]
        if full:
            self._forget(full)
        return self._advance([[int(token)] for token in tokens])

    def selected(self, rows: Sequence[int]) -> LMSession:
        """Only these texts, in this order, without the padding that all of them have."""
        past, memory = self._read(), self.memory
        lengths = [self.lengths[i] for i in rows]
        lead = past.ids.shape[1] - max(lengths)
        chosen = torch.tensor(list(rows), device=memory.ids.device)
        return LMSession(
            self.model,
            LMMemory(memory.keys[chosen], memory.ids[chosen], memory.hidden[chosen]),
            Past(
                [
                    _moved(KeyValues(layer.keys[chosen], layer.values[chosen]), -lead)
                    for layer in past.layers
                ],
                past.ids[chosen, lead:],
                past.copy_keys[chosen, lead:],
                past.last[chosen],
            ),
            lengths,
        )

    def joined(self, other: LMSession) -> LMSession:
        """The texts of both, these first; each has read a token."""
        mine, theirs = self._read(), other._read()
        size = max(mine.ids.shape[1], theirs.ids.shape[1])
        layers = []
        for a, b in zip(mine.layers, theirs.layers, strict=True):
            a, b = _moved(a, size - mine.ids.shape[1]), _moved(b, size - theirs.ids.shape[1])
            layers.append(KeyValues(torch.cat([a.keys, b.keys]), torch.cat([a.values, b.values])))
        past = Past(
            layers,
            _rows(mine.ids, theirs.ids, 1, PAD, front=True),
            _rows(mine.copy_keys, theirs.copy_keys, 1, front=True),
            torch.cat([mine.last, theirs.last]),
        )
        near, far = self.memory, other.memory
        memory = LMMemory(
            _rows(near.keys, far.keys, 2),
            _rows(near.ids, far.ids, 2, PAD),
            _rows(near.hidden, far.hidden, 2, NEVER),
        )
        return LMSession(self.model, memory, past, self.lengths + other.lengths)

    def _read(self) -> Past:
        assert self.past is not None  # each text has read a token
        return self.past

    def _check(self, ids: Sequence[int]) -> None:
        if not len(ids) or not all(0 <= i < self.model.config.vocab for i in ids):
            raise ValueError(f"tokens from 0 to {self.model.config.vocab - 1}, at least one")

    @torch.inference_mode()
    def _advance(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Tokens [b, t] that fit into the window -> log-probabilities [b, v] after the last."""
        device = self.memory.ids.device
        new, read = len(ids[0]), 0 if self.past is None else self.past.ids.shape[1]
        near = torch.full((len(ids), new, read + new), NEVER, device=device).triu(read + 1)
        for row, length in enumerate(self.lengths):
            near[row, :, : read - length] = NEVER
        given = torch.tensor(ids, device=device)
        x, targets, self.past = self.model.decode(given, near, self.memory, self.past)
        self.lengths = [length + new for length in self.lengths]
        targets.near_bias = targets.near_bias[:, -1:]
        return self.model.log_probs(x[:, -1:], targets)[:, 0]

    def _forget(self, full: Sequence[int]) -> None:
        """Read the newest half of these texts' windows again, each by itself; the others stay."""
        rest = [i for i in range(len(self.lengths)) if i not in full]
        parts = [self.selected(rest)] if rest else []
        for i in full:
            one = self.selected([i])
            newest = one._read().ids[0, -(self.model.config.window // 2) :].tolist()
            one.past, one.lengths = None, [0]
            one._advance([newest])
            parts.append(one)
        order = [*rest, *full]
        back = [order.index(i) for i in range(len(order))]
        whole = reduce(LMSession.joined, parts).selected(back)
        self.past, self.memory, self.lengths = whole.past, whole.memory, whole.lengths


@torch.inference_mode()
def read_passages(model: RetrievalLM, passages: Sequence[Sequence[int]]) -> LMMemory:
    """The memory of one text. With no passage it is as in training: one that is hidden."""
    device, length = model.embedding.weight.device, model.config.passage
    cut = [list(p[:length]) + [PAD] * (length - len(p)) for p in passages] or [[PAD] * length]
    places = torch.tensor([[list(range(len(passages))) or [-1]]], device=device)
    return model.read(torch.tensor(cut, device=device), places)


def _moved(layer: KeyValues, by: int) -> KeyValues:
    """Keys and values [b, h, s, e] with padding put in front, or (`by` < 0) taken away."""
    if not by:
        return layer
    size = layer.keys.shape[-1]
    turn = rotations(torch.tensor([by], device=layer.keys.device), size)
    return KeyValues(
        F.pad(rotate(layer.keys, turn), (0, 0, by, 0)), F.pad(layer.values, (0, 0, by, 0))
    )


def _rows(
    first: Tensor, second: Tensor, dim: int, value: float = 0, *, front: bool = False
) -> Tensor:
    """The rows of both, padded along `dim` to one length."""
    size = max(first.shape[dim], second.shape[dim])

    def padded(x: Tensor) -> Tensor:
        more = size - x.shape[dim]
        sides = [0, 0] * (x.dim() - 1 - dim) + ([more, 0] if front else [0, more])
        return F.pad(x, sides, value=value)

    return torch.cat([padded(first), padded(second)])
