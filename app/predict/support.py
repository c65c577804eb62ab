"""What a written sentence rests on, found by the server in the retrieved text.

The model is not asked: it would cite what it likes. A sentence is supported by one or two sentences
of the retrieved passages (each with its document's title) that hold most of its content words
(stems, stop words aside) and every number and name in it, and say it with a negation where it has
one; nothing supports a sentence that goes in circles. Its words are compared, not its meaning: a
supported sentence can still be wrong, an unsupported one says something that the retrieved text
does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from index_data.text.analysis import terms
from index_data.text.passages import sentences as split

HELD = 0.75  # share of a sentence's content words that what it rests on must hold
NEAREST = 16  # sentences of the passages that are looked at, those that share most words with it
DISTINCT = 0.6  # share of a sentence's content words that differ; with less it goes in circles
LONG = 6  # content words, at least, of a sentence that is looked at for that
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W\d_][\w-]*")
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
class Said:
    """A sentence of a passage, its document's title included."""

    rank: int  # of the passage
    words: frozenset[str]  # content words, stemmed
    numbers: frozenset[str]
    negative: bool

    @classmethod
    def of(cls, rank: int, text: str) -> Said:
        """A sentence of the passage of a rank."""
        return cls(rank, frozenset(terms(text)), numbers(text), negated(text))

    @property
    def details(self) -> frozenset[str]:
        """What the numbers and names of a sentence may be."""
        return self.words | self.numbers


@dataclass(frozen=True, slots=True)
class Ground:
    """A passage that sentences are compared with."""

    rank: int
    sentences: tuple[Said, ...]

    @classmethod
    def of(cls, rank: int, title: str | None, text: str) -> Ground:
        """A passage with the title of its document."""
        over = Said.of(rank, title or "")
        parts = [Said.of(rank, text[start:end]) for start, end in split(text)]
        found = [
            Said(rank, over.words | one.words, over.numbers | one.numbers, one.negative)
            for one in parts
        ]
        return cls(rank, (over, *found) if title else tuple(found))

    def near(self, words: frozenset[str], negative: bool) -> list[Said]:
        """Its sentences that share words; none where what is nearest to them is not negated as
        they are.
        """
        best = max((len(words & said.words) for said in self.sentences), default=0)
        nearest = [said for said in self.sentences if best and len(words & said.words) == best]
        if all(said.negative != negative for said in nearest):
            return []
        return [said for said in self.sentences if words & said.words]


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text."""
    return frozenset(_NUMBER.findall(text))


def names(sentence: str) -> frozenset[str]:
    """Stems of words with a capital letter, but for the first one; none in a headline."""
    words = [(word, terms(word)) for word in _WORD.findall(sentence)[1:] if len(word) > 1]
    words = [(word, stems) for word, stems in words if stems]
    found = [stems for word, stems in words if word[0].isupper()]
    return frozenset[str]().union(*found) if len(found) <= len(words) / 2 else frozenset()


def negated(text: str) -> bool:
    """Whether a text says that something is not so."""
    return _NEGATION.search(text) is not None


def supported(text: str, grounds: Sequence[Ground]) -> list[Sentence]:
    """The sentences of a text, each with the passages that support it, the fewest and best."""
    return [Sentence(start, end, citations(text[start:end], grounds)) for start, end in split(text)]


def citations(sentence: str, grounds: Sequence[Ground]) -> tuple[int, ...]:
    """The ranks of the passages whose sentences support a sentence: one, or two that hold it.

    Of two, the one that brings a number or a name which the other lacks must bring more than that:
    another number is no more true for standing elsewhere.
    """
    said = terms(sentence)
    words, told = frozenset(said), numbers(sentence) | names(sentence)
    if not words or (len(said) >= LONG and len(words) < DISTINCT * len(said)):
        return ()

    def hold(*group: Said) -> bool:
        known = frozenset[str]().union(*(one.details for one in group))
        return len(words & known) >= HELD * len(words) and told <= known

    def brings(one: Said, other: Said) -> bool:
        lacking = told - other.details
        return not lacking or len(words & one.words - other.words) > len(lacking)

    negative = negated(sentence)
    near = [one for ground in grounds for one in ground.near(words, negative)]
    near = sorted(near, key=lambda one: (-len(one.words & words), one.rank))[:NEAREST]
    for one in near:
        if hold(one):
            return (one.rank,)
    for a, b in sorted(combinations(near, 2), key=lambda pair: pair[0].rank != pair[1].rank):
        if hold(a, b) and brings(a, b) and brings(b, a):
            return tuple(sorted({a.rank, b.rank}))
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
