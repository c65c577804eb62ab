"""Fitting what a question-answering head is mixed and judged by, on rows it was not trained on.

Every row is asked twice over what was retrieved for it: as it is, and with its own text taken out,
when there is nothing to find. The retriever's weight is the least with about the best F1; the two
judges (is there an answer, is it right) are logistic regressions over both kinds. Two more judge a
single passage: the row's own text, the best other one, and of each a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.encoder.encoder import batches_by_length
from model.metrics import auroc
from model.optimise import minimise
from model.qa.answers import SpanAnswer, SpanReader
from model.qa.evidence import PassageText, QaReading, weigh
from model.qa.metrics import exact_match, f1
from model.qa.network import SpanConfig, SpanNetwork
from model.qa.pairs import Pair
from model.qa.rows import SpanRow

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
EQUAL = 0.005
"""F1 in which mixes count as equal: the least is taken, the retriever may be worse elsewhere."""
RIGHT = 0.5
"""F1 from which on an answer counts as right."""
READ_TOKENS = 4096
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]”’]*\s+|[。！？]+[”’」』]*|\n+")
RIDGE = 1e-3


@dataclass(slots=True)
class Case:
    """A row that was read: what of it is there to find."""

    row: SpanRow
    reading: QaReading
    present: bool


def retrieved_for(row: SpanRow, k: int, *, own: bool) -> list[PassageText]:
    """What a row is asked over: its hits, with or without those of its own text.

    Where the retriever did not find the row's text, the text comes first.
    """
    mine = [hit.text in row.context for hit in row.hits]
    texts = [(hit.text, hit.title) for hit in row.hits]
    if not own:
        texts = [one for one, is_mine in zip(texts, mine, strict=True) if not is_mine]
    elif not any(mine):
        texts = [(row.context, row.title), *texts]
    return [PassageText(text, rank, title) for rank, (text, title) in enumerate(texts[:k], 1)]


def single_passages(row: SpanRow) -> list[tuple[PassageText, bool]]:
    """Single passages that a row is asked over, and whether its answer is there to find.

    Its own text and the best other one that does not hold the answer; of its own the sentence with
    the answer alone, of the other the sentence in its place.
    """
    text, start = row.answers[0]
    texts = [(row.context, True), (sentence_at(row.context, start, start + len(text)), True)]
    answers = [answer.lower() for answer, _ in row.answers]
    for hit in row.hits:
        if hit.text not in row.context and not any(
            answer in hit.text.lower() for answer in answers
        ):
            at = min(start, max(0, len(hit.text) - 1))
            texts += [(hit.text, False), (sentence_at(hit.text, at, at + 1), False)]
            break
    return [(PassageText(one), present) for one, present in dict(texts).items() if one.strip()]


def sentence_at(text: str, start: int, end: int) -> str:
    """The sentence around the code points from `start` to `end`."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    first = max((place for place in ends if place <= start), default=0)
    last = min((place for place in ends if place >= end), default=len(text))
    return text[first:last].strip()


def read_all(reader: SpanReader, readings: Sequence[QaReading]) -> None:
    """Read every pair of some questions, batched by length; equal ones once."""
    equal: dict[tuple[int, ...], list[tuple[QaReading, Pair]]] = {}
    for reading in readings:
        for pair in reading.unread():
            equal.setdefault((pair.begin, *pair.ids), []).append((reading, pair))
    groups = list(equal.values())
    for batch in batches_by_length([len(g[0][1].ids) for g in groups], budget=READ_TOKENS):
        logits = reader.read([groups[j][0][1] for j in batch])
        for j, spans in zip(batch, logits, strict=True):
            for reading, pair in groups[j]:
                reading.put(pair, spans)


def ask_all(reader: SpanReader, readings: Sequence[QaReading]) -> list[SpanAnswer]:
    """Read and answer."""
    read_all(reader, readings)
    return [reader.answer(reading) for reading in readings]


def scores(rows: Sequence[SpanRow], answers: Sequence[SpanAnswer], lang: str) -> dict[str, float]:
    """Exact match and F1, in percent, of the likeliest spans."""
    truths = [[text for text, _ in row.answers] for row in rows]
    pairs = [(answer.text, truth) for answer, truth in zip(answers, truths, strict=True)]
    return {
        "exact_match": 100 * float(np.mean([exact_match(a, t, lang) for a, t in pairs])),
        "f1": 100 * float(np.mean([f1(a, t, lang) for a, t in pairs])),
        "rows": float(len(rows)),
    }


def settle(model: SpanNetwork, cases: Sequence[Case], lang: str) -> dict[str, float]:
    """Fit mix and judges in place, on cases that were read; how well they do on them.

    A head that judges a single passage apart judges it as all others until `calibrate_single`.
    """
    longest = model.config.answer_tokens
    # Where the retriever did not find a row's text, its order says nothing of the text.
    present = [case for case in cases if case.present]
    ranked = [c for c in present if any(hit.text in c.row.context for hit in c.row.hits)] or present

    def quality(mix: float) -> float:
        return float(np.mean([_f1(case, mix, longest, lang) for case in ranked]))

    by_mix = {mix: quality(mix) for mix in MIXES}
    mix = min(mix for mix in MIXES if by_mix[mix] >= max(by_mix.values()) - EQUAL)
    weights, figures = _judges(cases, mix, model.config, lang)
    with torch.no_grad():
        model.mix.fill_(mix)
        model.judge.copy_(weights.repeat(len(model.judge) // 2, 1))
    return {"mix": mix, **{f"answerable_{name}": value for name, value in figures.items()}}


def calibrate_single(model: SpanNetwork, rows: Sequence[SpanRow], lang: str) -> dict[str, float]:
    """Fit the judges of a single passage in place, as `settle`; how well they do on these rows.

    Cases of both kinds, with the answer and without, are needed.
    """
    reader = SpanReader(model.eval())
    cases = [
        Case(row, reader.ask(row.question, [passage]), present)
        for row in rows
        for passage, present in single_passages(row)
    ]
    cases = [case for case in cases if case.reading.pairs]
    read_all(reader, [case.reading for case in cases])
    if len({case.present for case in cases}) < 2:
        return {}
    weights, figures = _judges(cases, float(model.mix), model.config, lang)
    with torch.no_grad():
        model.judge[2:].copy_(weights)
    return {f"alone_{name}": value for name, value in figures.items()}


def _judges(
    cases: Sequence[Case], mix: float, config: SpanConfig, lang: str
) -> tuple[Tensor, dict[str, float]]:
    """Weights [2, features + 1] of the two judges, and how well the first does on these cases."""
    features, truth = _features(cases, mix, config, lang)
    weights = torch.stack([_logistic(features, truth[:, i]) for i in range(2)])
    chance, present = (features @ weights[0]).sigmoid(), truth[:, 0] > 0
    return weights, {
        "auroc": auroc(chance[present].tolist(), chance[~present].tolist()),
        "accuracy": float(((chance >= 0.5) == present).double().mean()),
        "cases": float(len(cases)),
    }


def _features(
    cases: Sequence[Case], mix: float, config: SpanConfig, lang: str
) -> tuple[Tensor, Tensor]:
    """Features with a constant [n, features + 1], and whether there is an answer, and a right one.

    The second [n, 2] is 0 or 1.
    """
    features = torch.zeros(len(cases), config.features + 1, dtype=torch.float64)
    truth = torch.zeros(len(cases), 2, dtype=torch.float64)
    for i, case in enumerate(cases):
        evidence = weigh(case.reading, mix, config.answer_tokens)
        features[i] = torch.from_numpy(np.append(evidence.features()[: config.features], 1.0))
        truth[i, 0] = case.present
        truth[i, 1] = case.present and _f1(case, mix, config.answer_tokens, lang) >= RIGHT
    return features, truth


def _f1(case: Case, mix: float, longest: int, lang: str) -> float:
    spans = weigh(case.reading, mix, longest).spans
    return f1(spans[0].text if spans else "", [text for text, _ in case.row.answers], lang)


def _logistic(features: Tensor, truth: Tensor) -> Tensor:
    """Ridge logistic regression by L-BFGS; the last feature is the constant."""
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        fit = binary_cross_entropy_with_logits(features @ weights, truth)
        return fit + RIDGE * weights[:-1].square().sum()

    minimise([weights], loss, steps=100, tolerance=1e-7)
    return weights.detach()
