"""What an encoder from nothing reads: texts as numbers, in batches, with words hidden."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.library import clean
from model.scratch.tokenizer import (
    IGNORED,
    MARKS,
    MASK,
    PAD,
    ScratchConfig,
    ScratchText,
    loosen,
    spelled,
    token_tags,
)

UNLABELLED = -1


@dataclass(slots=True)
class ScratchData:
    """Texts as ids, with their truth as numbers."""

    labels: list[str]
    types: list[str]
    ids: list[list[int]]
    truth: Tensor  # [n], UNLABELLED where there is none
    tags: list[list[int]]
    letters: Mapping[int, Sequence[int]]

    @classmethod
    def of(
        cls, rows: Sequence[ScratchText], tokenizer: Tokenizer, config: ScratchConfig
    ) -> ScratchData:
        """Of texts, as the tokenizer reads them."""
        labels = sorted({row.label for row in rows if row.label is not None})
        types = sorted({kind for row in rows for _, _, kind in row.entities or ()})
        number = {name: i for i, name in enumerate(labels)}
        place = {name: i for i, name in enumerate(types)}
        read = tokenizer.encode_batch([clean(row.text) for row in rows])
        return cls(
            labels,
            types,
            [one.ids for one in read],
            torch.tensor([UNLABELLED if r.label is None else number[r.label] for r in rows]),
            [token_tags(o.offsets, r.entities, place) for o, r in zip(read, rows, strict=True)],
            spelled(tokenizer) if config.loosened else {},
        )

    def batch(
        self, numbers: Sequence[int], config: ScratchConfig, chance: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Ids and tags [b, t] of some texts. What is tagged is not loosened."""
        read, tags = [], []
        for j in numbers:
            ids, marks = self.ids[j], self.tags[j]
            if all(mark == IGNORED for mark in marks):
                ids = loosen(ids, self.letters, config, chance)
                marks = [IGNORED] * len(ids)
            read.append(ids)
            tags.append(marks)
        width = max(map(len, read))

        def padded(parts: Sequence[Sequence[int]], value: int) -> Tensor:
            return torch.tensor([[*part] + [value] * (width - len(part)) for part in parts])

        return padded(read, PAD), padded(tags, IGNORED)


def hide(ids: Tensor, mask: Tensor, share: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids with a share of the words hidden, and what stood there (IGNORED elsewhere).

    Of those chosen 80 % become `[MASK]`, 10 % another word, 10 % stay (Devlin et al. 2018).
    """
    chosen = (torch.rand(ids.shape) < share).to(ids.device) & mask & (ids >= len(MARKS))
    fate = torch.rand(ids.shape).to(ids.device)
    other = torch.randint(len(MARKS), max(vocabulary, len(MARKS) + 1), ids.shape).to(ids.device)
    hidden = torch.where(chosen & (fate < 0.8), torch.full_like(ids, MASK), ids)
    hidden = torch.where(chosen & (fate >= 0.9), other, hidden)
    return hidden, torch.where(chosen, ids, torch.full_like(ids, IGNORED))
