"""From start and end logits over the passages of a question to its answer.

All spans of all passages and "no answer" (at 0) stand in one softmax; a passage that the retriever
ranks r-th counts `r ** -mix` times (reader and retriever mixed, as in Yang et al. 2019). How likely
the answer is there at all, and how likely it is right, is judged by two logistic regressions that
were fitted on rows that the head was not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """

    spans: list[Span]
    mass: list[float]
    confidence: float
    support: float
    calibrated: bool
    tokens: int

    @property
    def answerable(self) -> bool:
        """Whether the passages hold an answer, as far as can be told."""
        return bool(self.spans) and self.support >= 0.5


@dataclass(slots=True)
class Asked:
    """A question with its passages as pairs, and what was read of them so far."""

    passages: Sequence[PassageText]
    tokens: list[Tokens]
    pairs: list[Pair]
    owner: list[int]  # the passage of each pair
    logits: list[NDArray[np.float32] | None] = field(default_factory=list)  # by pair, [t, 2]

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
            return SpanAnswer([], mass, 0.0, 0.0, self._judge is not None, read)
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
    scores = []
    for logits, owner in zip(asked.logits, asked.owner, strict=True):
        if logits is None:
            raise ValueError("a pair was not read yet")
        table = logits[:, 0, None] + logits[None, :, 1] + prior[owner]
        offsets = np.arange(len(logits))[None, :] - np.arange(len(logits))[:, None]
        scores.append(np.where((offsets >= 0) & (offsets < longest), table, -np.inf))
    top = max(0.0, *(float(table.max()) for table in scores))
    null = math.exp(-top)
    total = null + sum(float(np.exp(table - top).sum()) for table in scores)
    mass = [0.0] * len(asked.passages)
    found: list[tuple[float, int, int, int]] = []
    for table, pair, owner in zip(scores, asked.pairs, asked.owner, strict=True):
        share = np.exp(table - top) / total
        mass[owner] += float(share.sum())
        flat = share.ravel()
        count = min(CANDIDATES, flat.size)
        for place in np.argpartition(-flat, count - 1)[:count]:
            if flat[place] > 0.0:
                begin, end = divmod(int(place), len(table))
                points = asked.tokens[owner].spans
                first, last = int(points[pair.first + begin][0]), int(points[pair.first + end][1])
                found.append((float(flat[place]), owner, first, last))
    spans = _merged(asked, found)
    best = spans[0] if spans else None
    rank = asked.passages[best.passage].rank if best else 1
    return Evidence(spans, mass, null / total, top if best else 0.0, rank)


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
        key = " ".join(answer_words(text, "")) or text
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
