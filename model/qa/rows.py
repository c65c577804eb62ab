"""What question answering is trained on, and how: plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from model.qa.evidence import PassageText


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A question, the text it was asked about, and where its answers stand (text, code point).

    `title`: what stands over the text, where there is something; it is read with it.
    `hits`: what was retrieved for the question, best first; passages of the row's own context may
    be among them, and are told from the others by standing in it word for word.
    """

    id: str
    question: str
    context: str
    answers: Sequence[tuple[str, int]]
    hits: Sequence[PassageText] = ()
    title: str | None = None


@dataclass(frozen=True, slots=True)
class SpanTrainConfig:
    """One training run."""

    epochs: int = 2
    batch_size: int = 16  # questions
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = None  # 1e-3 for AdamW, 0.05 for SGD
    seed: int = 0
    holdout: float = 0.05  # share of the rows, by hash of their context; 0: none
    field: str = "qa"  # the head's name
    lang: str = "en"  # by whose rules answers are compared
    layers: int = 3
    rank: int = 16
    dropout: float = 0.1
    windows: tuple[tuple[int, int], ...] = ((20, 64), (56, 120))
    """Tokens read around an answer, drawn between these anew each time; by epoch, the last stays.
    Short ones first: they cost little, and where an answer begins and ends is learned from them."""
    retrieval: bool = True  # False: the baseline *none*, trained without retrieved passages
    hits_from: int = 1  # epoch from which on retrieved passages are read too
    hit_share: float = 0.2  # of the questions that are read beside a retrieved passage,
    null_share: float = 0.08  # and of those that are read with it alone
    weight_decay: float = 0.01
    warmup: float = 0.06
    max_grad_norm: float = 1.0
    question_tokens: int = 48
    max_tokens: int = 192
    k: int = 8

    def window(self, epoch: int) -> tuple[int, int]:
        """Fewest and most tokens of a passage in an epoch."""
        return self.windows[min(epoch, len(self.windows) - 1)]

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return dataclasses.asdict(self)
