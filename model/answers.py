"""From start and end logits over the passages of a question to its answer.

All spans of all passages and "no answer" (at 0) stand in one softmax; a passage that the retriever
ranks r-th counts `r ** -mix` times (reader and retriever mixed, as in Yang et al. 2019). How likely
the answer is there at all, and how likely it is right, is judged by two logistic regressions that
were fitted on rows that the head was not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.pairs import Frame, Pair, Tokens, windows
from model.span import FEATURES, SpanNetwork, collate
from model.span_metrics import answer_words

CANDIDATES = 20
"""Spans of each pair that can become answers."""
SURE = 12.0
"""Logits are cut at this before they are judged."""


@dataclass(frozen=True, slots=True)
class PassageText:
    """A passage to be read; `rank`: the retriever's, from 1."""

    text: str
    rank: int = 1


@dataclass(frozen=True, slots=True)
class Span:
    """A possible answer: code points `start` to `end` of a passage, and its probability."""

    passage: int
    start: int
    end: int
    text: str
    prob: float


@dataclass(frozen=True, slots=True)
class SpanAnswer:
    """What the passages say to a question.

    `spans`: possible answers, the likeliest first, each text once. `mass`: for each passage the
    probability that the answer is in it; what is missing to 1 is that of there being none.
    `confidence`: that the first span is right; `support`: that the passages hold an answer.
    `read`: what it was answered from.
    """

    spans: list[Span]
    mass: list[float]
    confidence: float
    support: float
    calibrated: bool
    tokens: int
    read: Asked = field(repr=False, compare=False)

    @property
    def answerable(self) -> bool:
        """Whether the passages hold an answer, as far as can be told."""
        return bool(self.spans) and self.support >= 0.5

    @property
    def answered(self) -> str | None:
        """The answer without what does not matter in it; None where there is none."""
        return same_answer(self.spans[0].text) if self.answerable else None

    def prob_of(self, text: str) -> float:
        """The probability of an answer; 0 where it is not among the spans."""
        key = same_answer(text)
        return next((s.prob for s in self.spans if same_answer(s.text) == key), 0.0)


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
class Asked:
    """A question with its passages as pairs, and what was read of them so far."""

    passages: Sequence[PassageText]
    tokens: list[Tokens]
    pairs: list[Pair]
    owner: list[int]  # the passage of each pair
    logits: list[NDArray[np.float32] | None] = field(default_factory=list)  # by pair, [t, 2]
    spreads: dict[int, Spread] = field(default_factory=dict)  # by pair; what `weigh` made of it

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

    def without(self, passage: int) -> Asked:
        """The same with one passage less, and nothing in its place: those behind it move up."""
        gone = self.passages[passage].rank
        left = [i for i in range(len(self.passages)) if i != passage]
        number = {old: new for new, old in enumerate(left)}
        pairs = [n for n, owner in enumerate(self.owner) if owner != passage]
        passages = [self.passages[i] for i in left]
        return Asked(
            [replace(p, rank=p.rank - 1) if p.rank > gone else p for p in passages],
            [self.tokens[i] for i in left],
            [self.pairs[n] for n in pairs],
            [number[self.owner[n]] for n in pairs],
            [self.logits[n] for n in pairs],
            {new: self.spreads[n] for new, n in enumerate(pairs) if n in self.spreads},
        )


class SpanReader:
    """A question-answering head in use. Not for several threads at once."""

    def __init__(self, network: SpanNetwork) -> None:
        self.network = network
        self.config = network.config
        self._frame = Frame.of(network.encoder)
        judge = network.judge.detach().float().cpu().numpy()
        self._judge = judge if judge.any() else None
        self._mix = float(network.mix.detach())

    def ask(self, question: str, passages: Sequence[PassageText]) -> Asked:
        """Tokenise. Where question or passage has no tokens, there is no pair."""
        config, encoder = self.config, self.network.encoder
        ((question_ids, _), *found) = encoder.spans([question, *(p.text for p in passages)])
        question_ids = question_ids[: config.question_tokens]
        limit = min(config.max_tokens, encoder.max_tokens)
        room = max(1, limit - len(question_ids) - len(self._frame))
        asked = Asked(passages, [], [], [])
        for number, (ids, spans) in enumerate(found):
            span_table = np.array(spans, np.int32).reshape(-1, 2)
            asked.tokens.append(Tokens(np.array(ids, np.int32), span_table))
            for first, stop in windows(len(ids), room) if ids and question_ids else []:
                asked.pairs.append(self._frame.join(question_ids, ids[first:stop], first))
                asked.owner.append(number)
                asked.logits.append(None)
        return asked

    @torch.inference_mode()
    def read(self, pairs: Sequence[Pair]) -> list[NDArray[np.float32]]:
        """One padded pass: start and end logits [t, 2] of each pair's passage tokens."""
        network = self.network
        ids, mask, kinds = collate(network.encoder, pairs)
        logits = network(ids, mask, kinds).float().cpu().numpy()
        return [row[pair.begin : pair.end] for row, pair in zip(logits, pairs, strict=True)]

    def answer(self, asked: Asked) -> SpanAnswer:
        """The answer to a question whose pairs were all read."""
        read = sum(len(pair.ids) for pair in asked.pairs)
        if not asked.pairs:
            mass = [0.0] * len(asked.passages)
            return SpanAnswer([], mass, 0.0, 0.0, self._judge is not None, read, asked)
        evidence = weigh(asked, self._mix, self.config.answer_tokens)
        features = evidence.features()
        chances = (
            np.array([1.0 - evidence.null, 0.0 if not evidence.spans else evidence.spans[0].prob])
            if self._judge is None
            else _sigmoid(self._judge @ np.append(features, 1.0))
        )
        return SpanAnswer(
            evidence.spans,
            evidence.mass,
            float(min(chances[1], chances[0])),
            float(chances[0]),
            self._judge is not None,
            read,
            asked,
        )


@dataclass(slots=True)
class Evidence:
    """The softmax over a question's spans. `best`: the logit of the first span."""

    spans: list[Span]
    mass: list[float]
    null: float
    best: float
    rank: int

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
            ]
        )
        assert features.shape == (FEATURES,)
        return features


def weigh(asked: Asked, mix: float, longest: int) -> Evidence:
    """Normalise over all spans of all passages. An answer's text counts wherever it stands."""
    prior = [-mix * math.log(passage.rank) for passage in asked.passages]
    spreads = [asked.spread(number, longest) for number in range(len(asked.pairs))]
    peaks = [prior[owner] + one.peak for owner, one in zip(asked.owner, spreads, strict=True)]
    top = max(0.0, *peaks)
    null = math.exp(-top)
    scales = [math.exp(peak - top) for peak in peaks]
    total = null + sum(scale * one.total for scale, one in zip(scales, spreads, strict=True))
    mass = [0.0] * len(asked.passages)
    found: list[tuple[float, int, int, int]] = []
    for scale, one, pair, owner in zip(scales, spreads, asked.pairs, asked.owner, strict=True):
        mass[owner] += scale * one.total / total
        points = asked.tokens[owner].spans
        for share, begin, end in one.best:
            first, last = int(points[pair.first + begin][0]), int(points[pair.first + end][1])
            found.append((scale * share / total, owner, first, last))
    spans = _merged(asked, found)
    best = spans[0] if spans else None
    rank = asked.passages[best.passage].rank if best else 1
    return Evidence(spans, mass, null / total, top if best else 0.0, rank)


def same_answer(text: str) -> str:
    """What two answers have in common that count as one: their words, without case and articles."""
    return " ".join(answer_words(text, "")) or text


def _merged(asked: Asked, found: list[tuple[float, int, int, int]]) -> list[Span]:
    """Each text once, where it is likeliest, with the probability of all its places."""
    found.sort(key=lambda item: (-item[0], item[1:]))
    first: dict[str, tuple[int, int, int]] = {}
    total: dict[str, float] = {}
    seen: set[tuple[int, int, int]] = set()
    for prob, owner, start, end in found:
        if (owner, start, end) in seen:  # the same place in two windows
            continue
        seen.add((owner, start, end))
        text = asked.passages[owner].text[start:end]
        if not any(map(str.isalnum, text)):  # marks and emoji answer nothing
            continue
        key = same_answer(text)
        first.setdefault(key, (owner, start, end))
        total[key] = total.get(key, 0.0) + prob
    spans = [
        Span(owner, start, end, asked.passages[owner].text[start:end], total[key])
        for key, (owner, start, end) in first.items()
    ]
    return sorted(spans, key=lambda span: -span.prob)


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
