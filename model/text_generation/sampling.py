"""From logits to tokens, and from tokens to text: sampling, stop strings, whole characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Finish = Literal["stop", "length"]
HALF = "\ufffd"  # what a tokenizer makes of a character of which bytes are missing
CONTEXT = 5  # tokens of the prompt that are decoded along, so that a first space is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a text is continued. `temperature` 0 is greedy; `top_p` keeps the likeliest tokens that
    together have this probability (nucleus sampling: Holtzman et al. 2020).
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Sampler:
    """Chooses the tokens of one text, by a random generator of its own: company changes nothing."""

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature == 0
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._random = torch.Generator().manual_seed(sampling.seed & 0x7FFF_FFFF_FFFF_FFFF)

    def choose(self, logits: Tensor) -> int:
        """The next token of logits [V]."""
        if self.greedy:
            return int(logits.argmax())
        probs = torch.softmax(logits.float().cpu() / self._temperature, -1)
        if self._top_p < 1:
            probs = nucleus(probs, self._top_p)
        return int(torch.multinomial(probs, 1, generator=self._random))


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The smallest set of tokens that has `top_p` of the probability, summing to 1; [V] -> [V]."""
    ordered, order = probs.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    likeliest = torch.where(before < top_p, ordered, 0.0)
    likeliest[0] = ordered[0]  # top_p 0 is greedy
    return torch.zeros_like(probs).scatter(-1, order, likeliest / likeliest.sum())


class TextStream:
    """The text of tokens that come one by one, as far as it is certain.

    Held back are a character of which bytes are missing, and what may be the beginning of a stop
    string. A stop string, wherever the borders of tokens lie in it, ends the text before it.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stop: Sequence[str]
    ) -> None:
        self._decode = decode
        self._ids = list(prompt[-CONTEXT:])
        self._prefix, self._read = 0, len(self._ids)
        self._before = self._text(0)
        self._stop = [s for s in stop if s]
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """One more token; the text that is certain now."""
        self._ids.append(token)
        return self._certain(self._new(last=False))

    def flush(self) -> str:
        """The rest, when no more tokens come."""
        text = self._certain(self._new(last=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _text(self, start: int) -> str:
        return self._decode(self._ids[start:]) if self._ids else ""

    def _new(self, *, last: bool) -> str:
        # Decoded with what stands before: in many vocabularies a token's text hangs on it.
        whole = self._text(self._prefix)
        if len(whole) <= len(self._before) or (whole.endswith(HALF) and not last):
            return ""
        new = whole[len(self._before) :]
        self._prefix = self._read
        self._read = len(self._ids)
        self._before = self._text(self._prefix)
        return new

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        places = [(text.find(s), s) for s in self._stop if s in text]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)[0]]
        held = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that is a beginning of `stop`, but not all of it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
