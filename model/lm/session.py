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
    """Texts being written, a row each, with passages of their own.

    Rows are padded on the left to the longest. Beyond the window a text's oldest half is forgotten
    and the rest reread. Positions are relative, so a row that is moved has its keys turned.
    """

    model: RetrievalLM
    memory: LMMemory
    past: Past = field(default_factory=Past)
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
        said: Tensor | None = None
        left = [int(i) for i in ids]
        while left:
            room = self.model.config.window - self.past.length
            if room == 0:
                self._forget([0])
                continue
            said = self._advance([left[:room]])[0]
            left = left[room:]
        assert said is not None
        return said

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

    def kept(self, rows: Sequence[int]) -> LMSession:
        """Only these texts, in this order, without the padding that all of them have."""
        whole = self.past.length
        lengths = [self.lengths[i] for i in rows]
        lead = whole - max(lengths)
        chosen = torch.tensor(list(rows), device=self.memory.ids.device)
        past, memory = self.past, self.memory
        return LMSession(
            self.model,
            LMMemory(
                {i: _chosen(kv, chosen) for i, kv in memory.layers.items()},
                memory.hidden[chosen],
                memory.ids[chosen],
                None if memory.copy_keys is None else memory.copy_keys[chosen],
            ),
            Past(
                [_moved(_chosen(kv, chosen), -lead) for kv in past.layers],
                None if past.ids is None else past.ids[chosen, lead:],
                None if past.copy_keys is None else past.copy_keys[chosen, lead:],
                None if past.last is None else past.last[chosen],
            ),
            lengths,
        )

    def joined(self, other: LMSession) -> LMSession:
        """The texts of both, these first; each has read a token."""
        size = max(self.past.length, other.past.length)
        mine, theirs = (s.past for s in (self, other))
        assert mine.ids is not None
        assert theirs.ids is not None
        layers = [
            _side_by_side(_moved(a, size - mine.length), _moved(b, size - theirs.length))
            for a, b in zip(mine.layers, theirs.layers, strict=True)
        ]
        past = Past(
            layers,
            _rows(mine.ids, theirs.ids, 1, PAD, front=True),
            _maybe(mine.copy_keys, theirs.copy_keys, 1, front=True),
            _maybe(mine.last, theirs.last, 1),
        )
        near, far = self.memory, other.memory
        memory = LMMemory(
            {i: _side_by_side(near.layers[i], far.layers[i]) for i in near.layers},
            _rows(near.hidden, far.hidden, 4, NEVER),
            _rows(near.ids, far.ids, 2, PAD),
            _maybe(near.copy_keys, far.copy_keys, 2),
        )
        return LMSession(self.model, memory, past, self.lengths + other.lengths)

    def _check(self, ids: Sequence[int]) -> None:
        if not len(ids) or not all(0 <= i < self.model.config.vocab for i in ids):
            raise ValueError(f"tokens from 0 to {self.model.config.vocab - 1}, at least one")

    @torch.inference_mode()
    def _advance(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Tokens [b, t] that fit into the window -> log-probabilities [b, v] after the last."""
        device, past = self.memory.ids.device, self.past
        new, seen = len(ids[0]), past.length
        near = torch.full((len(ids), new, seen + new), NEVER, device=device).triu(seen + 1)
        for row, length in enumerate(self.lengths):
            near[row, :, : seen - length] = NEVER
        given = torch.tensor(ids, device=device)[:, None]
        x, targets, self.past = self.model.decode(given, near, self.memory, past)
        self.lengths = [length + new for length in self.lengths]
        if targets is not None:
            targets.near_bias = targets.near_bias[:, -1:]
        return self.model.log_probs(x[:, :, -1:], targets)[:, 0, 0]

    def _forget(self, full: Sequence[int]) -> None:
        """Read the newest half of these texts' windows again, alone; the others stay."""
        rest = [i for i in range(len(self.lengths)) if i not in full]
        parts = [self.kept(rest)] if rest else []
        for i in full:
            one = self.kept([i])
            assert one.past.ids is not None
            newest = one.past.ids[0, -(self.model.config.window // 2) :].tolist()
            one.past, one.lengths = Past(), [0]
            one._advance([newest])
            parts.append(one)
        order = [*rest, *full]
        whole = reduce(LMSession.joined, parts).kept([order.index(i) for i in range(len(order))])
        self.past, self.memory, self.lengths = whole.past, whole.memory, whole.lengths


@torch.inference_mode()
def read_passages(model: RetrievalLM, passages: Sequence[Sequence[int]]) -> LMMemory:
    """The memory of one text. With no passage it is as in training: one that is hidden."""
    device, length = model.embedding.weight.device, model.config.passage
    cut = [list(p[:length]) + [PAD] * (length - len(p)) for p in passages] or [[PAD] * length]
    places = torch.tensor([[list(range(len(passages))) or [-1]]], device=device)
    return model.read(torch.tensor(cut, device=device), places)


def _chosen(kept: KeyValues, rows: Tensor) -> KeyValues:
    return KeyValues(kept.keys[rows], kept.values[rows])


def _moved(kept: KeyValues, by: int) -> KeyValues:
    """Keys and values [b, h, s, e] with padding put in front, or (`by` < 0) taken away."""
    if not by:
        return kept
    size = kept.keys.shape[-1]
    turn = rotations(torch.tensor([by], device=kept.keys.device), size)
    return KeyValues(
        F.pad(rotate(kept.keys, turn), (0, 0, by, 0)), F.pad(kept.values, (0, 0, by, 0))
    )


def _side_by_side(first: KeyValues, second: KeyValues) -> KeyValues:
    """The rows of both, keys and values [..., s, e] padded behind to one length."""
    dim = first.keys.dim() - 2
    return KeyValues(_rows(first.keys, second.keys, dim), _rows(first.values, second.values, dim))


def _maybe(
    first: Tensor | None, second: Tensor | None, dim: int, *, front: bool = False
) -> Tensor | None:
    return None if first is None or second is None else _rows(first, second, dim, front=front)


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
