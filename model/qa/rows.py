"""What question answering is trained on, and how: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import RunSettings
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTrainConfig(RunSettings):
    """A training run of question answering; a row is held out by the hash of its context."""

    field: str = "qa"
    epochs: int = 2
    batch_size: int = 16  # questions
    holdout: float = 0.05
    lang: str = "en"  # by whose rules answers are compared
    windows: tuple[tuple[int, int], ...] = ((20, 64), (56, 120))
    """Tokens read around an answer, drawn between these anew each time; by epoch, the last stays.
    Short ones first: they cost little, and where an answer begins and ends is learned from them."""
    hits_from: int = 1  # epoch from which on retrieved passages are read too
    hit_share: float = 0.2  # of the questions that are read beside a retrieved passage,
    null_share: float = 0.08  # and of those that are read with it alone
    warmup: float = 0.06
    question_tokens: int = 48
    max_tokens: int = 192
    k: int = 8

    def window(self, epoch: int) -> tuple[int, int]:
        """Fewest and most tokens of a passage in an epoch."""
        return self.windows[min(epoch, len(self.windows) - 1)]
