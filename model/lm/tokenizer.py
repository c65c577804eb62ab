"""A byte-level BPE (Sennrich et al. 2016, Radford et al. 2019) that loses nothing.

Every string comes back as it was, and each token has a length in bytes, so that models with other
tokens are compared by bits per byte. Text never turns into a special token: their numbers lie
outside what the tokenizer knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.library import clean
from model.lm.config import SPECIAL

LARGEST = 2**16
"""Token numbers are kept in two bytes."""


class LMTokenizer:
    """Text to numbers from SPECIAL on, and back."""

    def __init__(self, inner: Tokenizer) -> None:
        self._inner = inner
        self.vocab: int = inner.get_vocab_size() + SPECIAL
        if self.vocab > LARGEST:
            raise ValueError(f"{self.vocab} tokens, {LARGEST} are the most")

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int) -> LMTokenizer:
        """Learn up to `vocab` tokens, the special ones among them."""
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab - SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator((clean(text) for text in texts), trainer)
        return cls(inner)

    @classmethod
    def from_json(cls, raw: str) -> LMTokenizer:
        """Rebuild from `to_json`.

        Raises:
            ValueError: It is no tokenizer's JSON.
        """
        json.loads(raw)  # the library's own error has no type
        return cls(Tokenizer.from_str(raw))

    @classmethod
    def load(cls, path: Path) -> LMTokenizer:
        """Read what `to_json` wrote. Raises OSError and ValueError."""
        return cls.from_json(path.read_text(encoding="utf-8"))

    def to_json(self) -> str:
        """The library's own format."""
        raw: str = self._inner.to_str()
        return raw

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
        """The numbers of each text, without START."""
        encoded = self._inner.encode_batch([clean(text) for text in texts])
        return [np.asarray(one.ids, dtype=np.uint16) + np.uint16(SPECIAL) for one in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of numbers; special ones have none, a torn character becomes U+FFFD."""
        text: str = self._inner.decode([int(i) - SPECIAL for i in ids if i >= SPECIAL])
        return text

    def byte_lengths(self) -> NDArray[np.int64]:
        """How many bytes of UTF-8 each token stands for [vocab]; the special ones for none."""
        lengths = np.zeros(self.vocab, dtype=np.int64)
        for token, number in self._inner.get_vocab().items():
            lengths[number + SPECIAL] = len(token)  # a character of its alphabet is a byte
        return lengths
