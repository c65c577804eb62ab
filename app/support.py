"""What a written sentence rests on, found by the server in the retrieved text.

The model is not asked: it would cite what it likes. A sentence is supported by a passage that holds
most of its content words (stems, stop words aside) and every number in it, and says it with a
negation where the sentence has one; nothing supports a sentence that goes in circles. Its words are
compared, not its meaning: a supported sentence can still be wrong, an unsupported one says
something that the retrieved text does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from index_data.analysis import terms
from index_data.passages import sentences as split

HELD = 0.75  # share of a sentence's content words that the passages it rests on must hold
CITED = 2  # passages that one sentence may rest on together
DISTINCT = 0.6  # share of a sentence's content words that differ; with less it goes in circles
LONG = 6  # content words, at least, of a sentence that is looked at for that
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|cannot|without)\b|n['’]t\b|[不没無无未]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer, ``text[start:end]``, and the ranks of what supports it."""

    start: int
    end: int
    citations: tuple[int, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether the retrieved text says it."""
        return bool(self.citations)

    def to_json(self) -> dict[str, Any]:
        """As the contract writes it."""
        return {
            "start": self.start,
            "end": self.end,
            "citations": list(self.citations),
            "supported": self.supported,
        }


@dataclass(frozen=True, slots=True)
class Ground:
    """A passage that sentences are compared with."""

    rank: int
    words: frozenset[str]
    numbers: frozenset[str]
    sentences: tuple[tuple[frozenset[str], bool], ...]  # words, and whether it is negated

    @classmethod
    def of(cls, rank: int, title: str | None, text: str) -> Ground:
        """A passage with the title of its document."""
        whole = f"{title}\n{text}" if title else text
        parts = tuple(
            (frozenset(terms(whole[start:end])), negated(whole[start:end]))
            for start, end in split(whole)
        )
        return cls(rank, frozenset(terms(whole)), numbers(whole), parts)

    def agrees(self, words: frozenset[str], negative: bool) -> bool:
        """Whether what is nearest to the words here is negated as they are."""
        best = max((len(words & held) for held, _ in self.sentences), default=0)
        return any(told == negative for held, told in self.sentences if len(words & held) == best)


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text."""
    return frozenset(_NUMBER.findall(text))


def negated(text: str) -> bool:
    """Whether a text says that something is not so."""
    return _NEGATION.search(text) is not None


def supported(text: str, grounds: Sequence[Ground]) -> list[Sentence]:
    """The sentences of a text, each with the passages that support it, the fewest and best."""
    return [Sentence(start, end, citations(text[start:end], grounds)) for start, end in split(text)]


def citations(sentence: str, grounds: Sequence[Ground]) -> tuple[int, ...]:
    """The ranks of the passages that support a sentence: one, or as few as hold it together."""
    said, told = terms(sentence), numbers(sentence)
    words = frozenset(said)
    if not words or (len(said) >= LONG and len(words) < DISTINCT * len(said)):
        return ()
    negative = negated(sentence)
    fitting = [g for g in grounds if g.words & words and g.agrees(words, negative)]
    fitting = sorted(fitting, key=lambda g: (-len(g.words & words), g.rank))[:16]
    for size in range(1, CITED + 1):
        for group in combinations(fitting, size):
            held = frozenset[str]().union(*(g.words for g in group))
            known = frozenset[str]().union(*(g.numbers for g in group))
            if len(words & held) >= HELD * len(words) and told <= known:
                return tuple(sorted(g.rank for g in group))
    return ()


def share(sentences: Sequence[Sentence]) -> float:
    """How much of an answer is supported, by length; 0 for an empty one."""
    total = sum(s.end - s.start for s in sentences)
    good = sum(s.end - s.start for s in sentences if s.supported)
    return good / total if total else 0.0


def weights(sentences: Sequence[Sentence], ranks: Iterable[int]) -> dict[int, float]:
    """Each passage's share of an answer, by the length of the sentences that rest on it."""
    total = sum(s.end - s.start for s in sentences) or 1
    found = dict.fromkeys(ranks, 0.0)
    for sentence in sentences:
        for rank in sentence.citations:
            found[rank] += (sentence.end - sentence.start) / total / len(sentence.citations)
    return found
