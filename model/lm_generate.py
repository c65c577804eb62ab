"""Text from a language model, token by token, over a cache of keys and values.

`LMSession` is the interface: numbers go in, the log-probabilities of what comes next come out,
with the passages that are in view exchangeable at any point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.lm import LMMemory, Past, RetrievalLM
from model.lm_config import PAD
from model.lm_layers import NEVER


class LMSession:
    """One text being written. Beyond the window the oldest half is forgotten and the rest reread.

    Deterministic, and for one text; a server keeps one a request.
    """

    def __init__(self, model: RetrievalLM, passages: Sequence[Sequence[int]] = ()) -> None:
        self.model = model
        self._past = Past()
        self._memory = self._read(passages)

    def kept(self, rows: Sequence[int]) -> LMSession:
        """The text itself, which is all that there is."""
        assert list(rows) == [0]
        return self

    def show(self, passages: Sequence[Sequence[int]]) -> None:
        """From now on these passages are in view; what was written before stays as it is."""
        self._memory = self._read(passages)

    def feed(self, ids: Sequence[int]) -> Tensor:
        """Append tokens; log-probabilities [v] of the one after them. START begins a text.

        Raises:
            ValueError: No token, or a number that is no token.
        """
        if not len(ids) or not all(0 <= i < self.model.config.vocab for i in ids):
            raise ValueError(f"tokens from 0 to {self.model.config.vocab - 1}, at least one")
        said: Tensor | None = None
        left = [int(i) for i in ids]
        while left:
            room = self.model.config.window - self._past.length
            if room == 0:
                self._forget()
                continue
            said = self._advance(left[:room])
            left = left[room:]
        assert said is not None
        return said

    @torch.inference_mode()
    def _advance(self, ids: list[int]) -> Tensor:
        model, past = self.model, self._past
        device = model.embedding.weight.device
        new, seen = len(ids), past.length
        near = torch.full((1, new, seen + new), NEVER, device=device).triu(seen + 1)
        x, targets, self._past = model.decode(
            torch.tensor([[ids]], device=device), near, self._memory, past
        )
        if targets is not None:
            targets.near_bias = targets.near_bias[:, -1:]
        return model.log_probs(x[:, :, -1:], targets)[0, 0, 0]

    def _forget(self) -> None:
        assert self._past.ids is not None
        kept = self._past.ids[0, -self.model.config.window // 2 :].tolist()
        self._past = Past()
        self._advance(kept)

    @torch.inference_mode()
    def _read(self, passages: Sequence[Sequence[int]]) -> LMMemory:
        device, length = self.model.embedding.weight.device, self.model.config.passage
        cut = [list(p[:length]) + [PAD] * (length - len(p)) for p in passages] or [[PAD] * length]
        count = len(passages) if self.model.config.memory != "none" else 0
        places = torch.arange(count, device=device)[None, None]
        return self.model.read(torch.tensor(cut, device=device), places)
