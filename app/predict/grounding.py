"""The grounding of a generated sentence: the retrieved passages that it rests on.

The model is not asked: it would cite what it likes. A sentence is grounded in one or two sentences
of the retrieved passages (each with its document's title) that hold most of its content words
(stems, stop words aside) and every number and name in it, and that are negated where it is; a
sentence that goes in circles is not grounded. Its words are compared, not its meaning: a grounded
sentence can still be wrong, any other says something that the retrieved text does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from index_data.text.analysis import terms
from index_data.text.passages import sentences as split

HELD = 0.75  # share of a sentence's content words that its sources must hold
NEAREST = 16  # sentences of the passages that are compared, those that share most words with it
DISTINCT = 0.6  # share of a sentence's content words that differ; with less it goes in circles
LONG = 6  # content words, at least, of a sentence that can go in circles
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W\d_][\w-]*")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|cannot|without)\b|n['’]t\b|[不没無无未]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer, ``text[start:end]``, and the ranks of the passages it rests on."""

    start: int
    end: int
    citations: tuple[int, ...] = ()

    @property
    def grounded(self) -> bool:
        """Whether it rests on retrieved text."""
        return bool(self.citations)

    def to_json(self) -> dict[str, Any]:
        """As it stands in an answer."""
        return {
            "start": self.start,
            "end": self.end,
            "citations": list(self.citations),
            "supported": self.grounded,
        }


@dataclass(frozen=True, slots=True)
class SourceSentence:
    """A sentence of a passage, its document's title included."""

    rank: int  # of the passage
    words: frozenset[str]  # content words, stemmed
    numbers: frozenset[str]
    negative: bool

    @classmethod
    def of(cls, rank: int, text: str) -> SourceSentence:
        """A sentence of the passage of a rank."""
        return cls(rank, frozenset(terms(text)), numbers(text), negated(text))

    @property
    def details(self) -> frozenset[str]:
        """What may stand for the numbers and names of a sentence."""
        return self.words | self.numbers


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that sentences are compared with."""

    rank: int
    sentences: tuple[SourceSentence, ...]

    @classmethod
    def of(cls, rank: int, title: str | None, text: str) -> Source:
        """A passage with the title of its document."""
        over = SourceSentence.of(rank, title or "")
        parts = [SourceSentence.of(rank, text[start:end]) for start, end in split(text)]
        sentences = [
            SourceSentence(rank, over.words | one.words, over.numbers | one.numbers, one.negative)
            for one in parts
        ]
        return cls(rank, (over, *sentences) if title else tuple(sentences))

    def near(self, words: frozenset[str], negative: bool) -> list[SourceSentence]:
        """Its sentences that share words; none where the nearest are not negated as they are."""
        best = max((len(words & one.words) for one in self.sentences), default=0)
        nearest = [one for one in self.sentences if best and len(words & one.words) == best]
        if all(one.negative != negative for one in nearest):
            return []
        return [one for one in self.sentences if words & one.words]


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text."""
    return frozenset(_NUMBER.findall(text))


def names(sentence: str) -> frozenset[str]:
    """Stems of words with a capital letter, but for the first one; none in a headline."""
    words = [(word, terms(word)) for word in _WORD.findall(sentence)[1:] if len(word) > 1]
    words = [(word, stems) for word, stems in words if stems]
    capital = [stems for word, stems in words if word[0].isupper()]
    return frozenset[str]().union(*capital) if len(capital) <= len(words) / 2 else frozenset()


def negated(text: str) -> bool:
    """Whether a text says that something is not so."""
    return _NEGATION.search(text) is not None


def grounded(text: str, sources: Sequence[Source]) -> list[Sentence]:
    """The sentences of a text, each with the passages it rests on, the fewest and best."""
    return [Sentence(start, end, citations(text[start:end], sources)) for start, end in split(text)]


def citations(sentence: str, sources: Sequence[Source]) -> tuple[int, ...]:
    """The ranks of the passages that hold a sentence: in one of their sentences, or in two.

    Of two, the one that brings a number or a name which the other lacks must bring more than that:
    another number is no more true for standing elsewhere.
    """
    stems = terms(sentence)
    words, details = frozenset(stems), numbers(sentence) | names(sentence)
    if not words or (len(stems) >= LONG and len(words) < DISTINCT * len(stems)):
        return ()

    def hold(*group: SourceSentence) -> bool:
        known = frozenset[str]().union(*(one.details for one in group))
        return len(words & known) >= HELD * len(words) and details <= known

    def brings(one: SourceSentence, other: SourceSentence) -> bool:
        lacking = details - other.details
        return not lacking or len(words & one.words - other.words) > len(lacking)

    negative = negated(sentence)
    near = [one for source in sources for one in source.near(words, negative)]
    near = sorted(near, key=lambda one: (-len(one.words & words), one.rank))[:NEAREST]
    for one in near:
        if hold(one):
            return (one.rank,)
    for a, b in sorted(combinations(near, 2), key=lambda pair: pair[0].rank != pair[1].rank):
        if hold(a, b) and brings(a, b) and brings(b, a):
            return tuple(sorted({a.rank, b.rank}))
    return ()


def share(sentences: Sequence[Sentence]) -> float:
    """The grounded share of an answer, by length; 0 for an empty one."""
    total = sum(s.end - s.start for s in sentences)
    good = sum(s.end - s.start for s in sentences if s.grounded)
    return good / total if total else 0.0


def weights(sentences: Sequence[Sentence], ranks: Iterable[int]) -> dict[int, float]:
    """Each passage's share of an answer, by the length of the sentences that rest on it."""
    total = sum(s.end - s.start for s in sentences) or 1
    shares = dict.fromkeys(ranks, 0.0)
    for sentence in sentences:
        for rank in sentence.citations:
            shares[rank] += (sentence.end - sentence.start) / total / len(sentence.citations)
    return shares
