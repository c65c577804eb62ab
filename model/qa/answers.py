"""A question-answering head in use: what the passages say to a question.

How likely the answer is there at all, and how likely it is right, is judged by two logistic
regressions that were fitted on rows that the head was not trained on; a short passage that is read
alone has two of its own. They look at the softmax over all spans (`model.qa.evidence`), at the
retriever's rank, at how many of the question's words stand in the answer's passage and close to the
answer, and at the passage's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from model.qa.evidence import PassageText, QaReading, Span, same_answer, weigh
from model.qa.network import SpanNetwork, collate
from model.qa.pairs import Frame, Pair, tokens_of, windows

SHORT_PASSAGE = 64
"""Tokens of a passage, read alone, that has judges of its own: about three sentences."""


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
    read: QaReading = field(repr=False, compare=False)

    @property
    def answerable(self) -> bool:
        """Whether the passages hold an answer, as far as can be told."""
        return bool(self.spans) and self.support >= 0.5

    @property
    def readable(self) -> bool:
        """Whether the encoder's vocabulary covers the question, and one of the passages."""
        return self.read.readable

    @property
    def text(self) -> str:
        """The likeliest span, whether it is claimed to answer or not; empty where there is none."""
        return self.spans[0].text if self.spans else ""

    @property
    def answered(self) -> str | None:
        """The answer without what does not matter in it; None where there is none."""
        return same_answer(self.spans[0].text) if self.answerable else None

    def prob_of(self, text: str) -> float:
        """The probability of an answer; 0 where it is not among the spans."""
        key = same_answer(text)
        return next((s.prob for s in self.spans if same_answer(s.text) == key), 0.0)


class SpanReader:
    """A question-answering head in use. Not for several threads at once."""

    def __init__(self, network: SpanNetwork) -> None:
        self.network = network
        self.config = network.config
        self._frame = Frame.of(network.encoder)
        judge = network.judge.detach().float().cpu().numpy()
        self._judges = judge if judge.any() else None  # [2 or 4, features + 1]
        self._mix = float(network.mix.detach())

    def ask(self, question: str, passages: Sequence[PassageText]) -> QaReading:
        """Tokenise. Where question or passage is empty or cannot be read, there is no pair."""
        config, encoder = self.config, self.network.encoder
        ((question_ids, _),) = encoder.spans([question])
        known = encoder.reads(question_ids)
        question_ids = question_ids[: config.question_tokens]
        limit = min(config.max_tokens, encoder.max_tokens) - len(question_ids) - len(self._frame)
        titles = [p.title if config.titles else None for p in passages]
        found = tokens_of(encoder, [p.text for p in passages], titles)
        legible = [known and encoder.reads(tokens.ids.tolist()) for tokens in found]
        reading = QaReading(passages, found, [], [], readable=any(legible) if found else known)
        for number, tokens in enumerate(found):
            room = max(1, limit - len(tokens.title))
            is_read = legible[number] and len(tokens) and question_ids
            for first, stop in windows(len(tokens), room) if is_read else []:
                reading.pairs.append(self._frame.join(question_ids, tokens, first, stop))
                reading.owner.append(number)
                reading.logits.append(None)
        return reading

    @torch.inference_mode()
    def read(self, pairs: Sequence[Pair]) -> list[NDArray[np.float32]]:
        """One padded pass: start and end logits [t, 2] of each pair's passage tokens."""
        network = self.network
        ids, mask, kinds = collate(network.encoder, pairs)
        logits = network(ids, mask, kinds).float().cpu().numpy()
        return [row[pair.begin : pair.end] for row, pair in zip(logits, pairs, strict=True)]

    def answer(self, reading: QaReading) -> SpanAnswer:
        """The answer to a question whose pairs were all read."""
        read = sum(len(pair.ids) for pair in reading.pairs)
        if not reading.pairs:
            mass = [0.0] * len(reading.passages)
            return SpanAnswer([], mass, 0.0, 0.0, self._judges is not None, read, reading)
        evidence = weigh(reading, self._mix, self.config.answer_tokens)
        features = evidence.features()
        if self._judges is None:
            sure = evidence.spans[0].prob if evidence.spans else 0.0
            chances = np.array([1.0 - evidence.null, sure])
        else:
            single = len(reading.passages) == 1 and evidence.length <= SHORT_PASSAGE
            judges = self._judges[-2:] if single else self._judges[:2]
            chances = _sigmoid(judges @ np.append(features[: self.config.features], 1.0))
        return SpanAnswer(
            evidence.spans,
            evidence.mass,
            float(min(chances[1], chances[0])),
            float(chances[0]),
            self._judges is not None,
            read,
            reading,
        )


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
