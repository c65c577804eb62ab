"""Rows of question answering as numbers, and the pairs that an epoch draws from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.encoder.encoder import Encoder
from model.qa.evidence import PassageText
from model.qa.pairs import Frame, Pair, Tokens, tokens_of
from model.qa.rows import SpanRow, SpanTrainConfig

TOKENIZED_AT_ONCE = 512


@dataclass(slots=True)
class Prepared:
    """Rows as numbers. `gold`: (first token, token after the last) of each answer.

    `limit`: tokens of a question and a passage, with its title, that can be read together.
    """

    questions: list[list[int]]
    contexts: list[Tokens]
    gold: list[list[tuple[int, int]]]
    hits: list[list[Tokens]]
    frame: Frame
    limit: int

    def room(self, i: int, passage: Tokens) -> int:
        """How many tokens of a passage can be read with the question of a row."""
        return max(1, self.limit - len(self.questions[i]) - len(passage.title))

    def length(self, i: int) -> int:
        """About how many tokens a row is read with."""
        return len(self.questions[i]) + len(self.contexts[i])


def prepare(encoder: Encoder, rows: Sequence[SpanRow], config: SpanTrainConfig) -> Prepared:
    """Tokenise every text once."""
    known: dict[tuple[str, str | None], Tokens] = {}

    def as_read(row: SpanRow, hit: PassageText) -> tuple[str, str | None]:
        """A hit's title beside a text without one would tell it from the row's own text."""
        return hit.text, hit.title if row.title else None

    own = {(row.context, row.title) for row in rows}
    texts_read = sorted(own | {as_read(row, hit) for row in rows for hit in row.hits}, key=str)
    for start in range(0, len(texts_read), TOKENIZED_AT_ONCE):
        part = texts_read[start : start + TOKENIZED_AT_ONCE]
        texts, titles = [text for text, _ in part], [title for _, title in part]
        known.update(zip(part, tokens_of(encoder, texts, titles), strict=True))
    questions = [
        ids[: config.question_tokens] for ids, _ in encoder.spans([row.question for row in rows])
    ]
    contexts = [known[row.context, row.title] for row in rows]
    hits = [
        [
            tokens
            for hit in row.hits
            if not _holds(hit.text, row) and len(tokens := known[as_read(row, hit)])
        ]
        for row in rows
    ]
    frame = Frame.of(encoder)
    limit = min(config.max_tokens, encoder.max_tokens) - len(frame)
    data = Prepared(questions, contexts, [], hits, frame, limit)
    for i, (row, tokens) in enumerate(zip(rows, contexts, strict=True)):
        found = [token_span(tokens, start, len(text)) for text, start in row.answers]
        room = data.room(i, tokens)
        data.gold.append([span for span in found if span and span[1] - span[0] <= room])
    return data


def token_span(tokens: Tokens, start: int, length: int) -> tuple[int, int] | None:
    """The tokens that cover code points `start` to `start + length`; None: there are none."""
    inside = (tokens.spans[:, 1] > start) & (tokens.spans[:, 0] < start + length)
    places: NDArray[np.int64] = inside.nonzero()[0]
    return (int(places[0]), int(places[-1]) + 1) if len(places) else None


def _holds(text: str, row: SpanRow) -> bool:
    """Whether a hit is no counter-example: of the row's own text, or with an answer in it."""
    plain = text.casefold()
    return text in row.context or any(answer.casefold() in plain for answer, _ in row.answers)


def draw(
    data: Prepared, rows: Sequence[int], config: SpanTrainConfig, epoch: int, rng: random.Random
) -> tuple[list[Pair], Tensor, list[list[tuple[int, int]]]]:
    """The pairs of a batch, the question of each [b], and where in each pair answers stand."""
    pairs: list[Pair] = []
    question: list[int] = []
    gold: list[list[tuple[int, int]]] = []
    for number, i in enumerate(rows):
        beside = None
        alone = False
        if config.retrieval and epoch >= config.hits_from and data.hits[i]:
            chance = rng.random()
            if chance < config.hit_share + config.null_share:
                beside = rng.choice(data.hits[i])
                alone = chance < config.null_share
        if not alone:
            pair, spans = _around_answer(data, i, config.window(epoch), rng)
            pairs.append(pair)
            gold.append(spans)
            question.append(number)
        if beside is not None:
            room = min(rng.randint(*config.window(epoch)), len(beside), data.room(i, beside))
            first = rng.randint(0, len(beside) - room)
            pairs.append(data.frame.join(data.questions[i], beside, first, first + room))
            gold.append([])
            question.append(number)
    return pairs, torch.tensor(question), gold


def _around_answer(
    data: Prepared, i: int, window: tuple[int, int], rng: random.Random
) -> tuple[Pair, list[tuple[int, int]]]:
    """A window of random length that holds one of the answers somewhere."""
    tokens = data.contexts[i]
    begin, end = rng.choice(data.gold[i])
    room = min(max(rng.randint(*window), end - begin), len(tokens), data.room(i, tokens))
    first = rng.randint(max(0, end - room), min(begin, len(tokens) - room))
    pair = data.frame.join(data.questions[i], tokens, first, first + room)
    spans = [
        (pair.begin + a - first, pair.begin + b - first)
        for a, b in data.gold[i]
        if a >= first and b <= first + room
    ]
    return pair, spans


def gold_places(gold: Sequence[Sequence[tuple[int, int]]], width: int) -> Tensor:
    """[b, width, 2] true where an answer begins, and where it ends (its last token)."""
    marks = torch.zeros(len(gold), width, 2, dtype=torch.bool)
    for row, spans in zip(marks, gold, strict=True):
        for begin, end in spans:
            row[begin, 0] = True
            row[end - 1, 1] = True
    return marks
