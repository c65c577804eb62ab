"""From start and end logits over the passages of a question to one softmax over their spans.

All spans of all passages and "no answer" (at 0) stand in it; a passage that the retriever ranks
r-th counts `r ** -mix` times (reader and retriever mixed, as in Yang et al. 2019).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from model.qa.metrics import answer_words
from model.qa.network import FEATURES
from model.qa.pairs import Pair, Tokens

CANDIDATES = 20
"""Spans of each pair that can become answers."""
SURE = 12.0
"""Logits are cut at this before they are judged."""
CLOSE = 20
"""Tokens before and after an answer that are close to it."""


@dataclass(frozen=True, slots=True)
class PassageText:
    """A passage to be read; `rank`: the retriever's, from 1; `title`: its document's."""

    text: str
    rank: int = 1
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A possible answer: code points `start` to `end` of a passage, and its probability."""

    passage: int
    start: int
    end: int
    text: str
    prob: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The spans of one pair, by `exp(s - peak)`: `total`, `best` (share, first and last token)."""

    peak: float
    total: float
    best: list[tuple[float, int, int]]

    @classmethod
    def of(cls, logits: NDArray[np.float32], longest: int) -> Spread:
        """All spans of at most `longest` tokens, by start and end logits [t, 2]."""
        table = logits[:, 0, None] + logits[None, :, 1]  # [t, t]
        offsets = np.arange(len(logits))[None, :] - np.arange(len(logits))[:, None]
        table = np.where((offsets >= 0) & (offsets < longest), table, -np.inf)
        peak = float(table.max())
        share = np.exp(table - peak).ravel()
        count = min(CANDIDATES, share.size)
        places = np.argpartition(-share, count - 1)[:count].tolist()
        best = [(float(share[i]), *divmod(int(i), len(table))) for i in places if share[i] > 0.0]
        return cls(peak, float(share.sum()), best)


@dataclass(slots=True)
class QaReading:
    """A question with its passages as pairs, and what was read of them so far.

    `readable`: whether the encoder's vocabulary covers the question, and one of the passages.
    """

    passages: Sequence[PassageText]
    tokens: list[Tokens]
    pairs: list[Pair]
    owner: list[int]  # the passage of each pair
    logits: list[NDArray[np.float32] | None] = field(default_factory=list)  # by pair, [t, 2]
    spreads: dict[int, Spread] = field(default_factory=dict)  # by pair; what `weigh` made of it
    readable: bool = True

    def unread(self) -> list[Pair]:
        """The pairs that have no logits yet."""
        return [p for p, found in zip(self.pairs, self.logits, strict=True) if found is None]

    def put(self, pair: Pair, logits: NDArray[np.float32]) -> None:
        """What was read of one of the pairs: start and end logits of its passage's tokens."""
        place = next(i for i, own in enumerate(self.pairs) if own is pair)
        self.logits[place] = logits

    @property
    def whole(self) -> bool:
        """Whether everything was read."""
        return all(found is not None for found in self.logits)

    def spread(self, pair: int, longest: int) -> Spread:
        """The spans of one pair, computed once. Raises ValueError while it is unread."""
        if pair not in self.spreads:
            logits = self.logits[pair]
            if logits is None:
                raise ValueError("a pair was not read yet")
            self.spreads[pair] = Spread.of(logits, longest)
        return self.spreads[pair]

    def without(self, passage: int) -> QaReading:
        """The same with one passage less, and nothing in its place: those behind it move up."""
        gone = self.passages[passage].rank
        left = [i for i in range(len(self.passages)) if i != passage]
        number = {old: new for new, old in enumerate(left)}
        pairs = [n for n, owner in enumerate(self.owner) if owner != passage]
        passages = [self.passages[i] for i in left]
        return QaReading(
            [replace(p, rank=p.rank - 1) if p.rank > gone else p for p in passages],
            [self.tokens[i] for i in left],
            [self.pairs[n] for n in pairs],
            [number[self.owner[n]] for n in pairs],
            [self.logits[n] for n in pairs],
            {new: self.spreads[n] for new, n in enumerate(pairs) if n in self.spreads},
            self.readable,
        )


@dataclass(slots=True)
class Evidence:
    """The softmax over a question's spans.

    `best`: the logit of the first span; `rank`: the retriever's of its passage; `shared`: shares of
    the question that its passage has, and that stand close to it; `length`: tokens of the passage.
    """

    spans: list[Span]
    mass: list[float]
    null: float
    best: float
    rank: int
    shared: tuple[float, float]
    length: int

    def features(self) -> NDArray[np.float64]:
        """What the judges look at, [FEATURES]."""
        prob = self.spans[0].prob if self.spans else 0.0
        second = self.spans[1].prob if len(self.spans) > 1 else 0.0
        features = np.array(
            [
                min(max(self.best, -SURE), SURE) / SURE,
                _logit(prob) / SURE,
                _logit(prob / (prob + second) if prob else 0.5) / SURE,
                math.log(self.rank),
                *self.shared,
                math.log1p(self.length) / SURE,
            ]
        )
        assert features.shape == (FEATURES,)
        return features


def weigh(reading: QaReading, mix: float, longest: int) -> Evidence:
    """Normalise over all spans of all passages. An answer's text counts wherever it stands."""
    prior = [-mix * math.log(passage.rank) for passage in reading.passages]
    spreads = [reading.spread(number, longest) for number in range(len(reading.pairs))]
    peaks = [prior[owner] + one.peak for owner, one in zip(reading.owner, spreads, strict=True)]
    top = max(0.0, *peaks)
    null = math.exp(-top)
    scales = [math.exp(peak - top) for peak in peaks]
    total = null + sum(scale * one.total for scale, one in zip(scales, spreads, strict=True))
    mass = [0.0] * len(reading.passages)
    found: list[tuple[float, int, int, int]] = []
    for scale, one, pair, owner in zip(scales, spreads, reading.pairs, reading.owner, strict=True):
        mass[owner] += scale * one.total / total
        points = reading.tokens[owner].spans
        for share, begin, end in one.best:
            first, last = int(points[pair.first + begin][0]), int(points[pair.first + end][1])
            found.append((scale * share / total, owner, first, last))
    spans = _merged(reading, found)
    best = spans[0] if spans else None
    rank = reading.passages[best.passage].rank if best else 1
    shared = _shared(reading, best) if best else (0.0, 0.0)
    length = len(reading.tokens[best.passage]) if best else 0
    return Evidence(spans, mass, null / total, top if best else 0.0, rank, shared, length)


def _shared(reading: QaReading, span: Span) -> tuple[float, float]:
    """How much of the question a span's passage has, and how much stands close to the span.

    What its title has is there, and close to all of it. Over the question's tokens, each by
    `log((k + 1) / (n + 0.5))` where n of k passages have it.
    """
    question = next(
        p.question for p, at in zip(reading.pairs, reading.owner, strict=True) if at == span.passage
    )
    there = [question & tokens.words for tokens in reading.tokens]
    counts = Counter(token for tokens in there for token in tokens)
    weights = {t: math.log((len(there) + 1) / (counts[t] + 0.5)) for t in question}
    tokens = reading.tokens[span.passage]
    starts, ends = tokens.spans[:, 0], tokens.spans[:, 1]
    places = np.flatnonzero((starts < span.end) & (ends > span.start))
    first, last = max(0, int(places[0]) - CLOSE), int(places[-1]) + CLOSE
    close = question & {*tokens.ids[first:last].tolist(), *tokens.title}
    total = sum(weights.values())
    whole, near = (sum(weights[t] for t in some) for some in (there[span.passage], close))
    return whole / total, near / total


def same_answer(text: str) -> str:
    """What two answers have in common that count as one: their words, without case and articles."""
    return " ".join(answer_words(text, "")) or text


def _merged(reading: QaReading, found: list[tuple[float, int, int, int]]) -> list[Span]:
    """Each text once, where it is likeliest, with the probability of all its places."""
    found.sort(key=lambda item: (-item[0], item[1:]))
    first: dict[str, tuple[int, int, int]] = {}
    total: dict[str, float] = {}
    seen: set[tuple[int, int, int]] = set()
    for prob, owner, start, end in found:
        if (owner, start, end) in seen:  # the same place in two windows
            continue
        seen.add((owner, start, end))
        text = reading.passages[owner].text[start:end]
        if not any(map(str.isalnum, text)):  # marks and emoji answer nothing
            continue
        key = same_answer(text)
        first.setdefault(key, (owner, start, end))
        total[key] = total.get(key, 0.0) + prob
    spans = [
        Span(owner, start, end, reading.passages[owner].text[start:end], total[key])
        for key, (owner, start, end) in first.items()
    ]
    return sorted(spans, key=lambda span: -span.prob)


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
