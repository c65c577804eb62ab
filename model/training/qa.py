"""Training a head for questions, on rows that arrive with the passages retrieved for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from model.config import bf16_products
from model.encoder.encoder import Encoder
from model.qa.answers import SpanAnswer, SpanReader
from model.qa.evidence import PassageText
from model.qa.metrics import f1
from model.qa.network import FEATURES, SpanConfig, SpanNetwork, collate, shared_loss
from model.qa.rows import SpanRow, SpanTrainConfig
from model.training.driver import Evaluated, Fitted, StartTicker, base_network, head_settings
from model.training.evaluation import compare
from model.training.qa_calibration import (
    Case,
    ask_all,
    calibrate_single,
    read_all,
    retrieved_for,
    scores,
    settle,
)
from model.training.qa_examples import Prepared, draw, gold_places, prepare
from model.training.split import TOO_FEW, Split, bucket
from model.training.trainer import Draws, LoopState, Ticker, run_epochs
from model.training.workspace import TrainingRefused

MAX_HELD_OUT = 300


@dataclass
class QaTraining:
    """Rows without an answer in their context are left out.

    `feedback_items`: rows that are only measured on. Figures are exact_match and f1, in percent.
    """

    rows: Sequence[SpanRow]
    config: SpanTrainConfig
    encoder: Encoder
    feedback_items: Sequence[SpanRow] = ()

    @cached_property
    def data(self) -> Prepared:
        """All rows as numbers."""
        return prepare(self.encoder, self.rows, self.config)

    def split(self) -> Split:
        """See `HeadTraining`: by context, so that no text is on both sides."""
        rows, config = self.rows, self.config
        usable = [i for i, gold in enumerate(self.data.gold) if gold]
        if not usable:
            raise TrainingRefused(f"none of the {len(rows)} rows has an answer within its context")
        warnings = []
        if len(usable) < len(rows):
            warnings.append(f"{len(rows) - len(usable)} rows without an answer in their context")
        apart = {i for i in usable if bucket(rows[i].context) < config.holdout}
        train = [i for i in usable if i not in apart] or usable
        held = sorted(apart, key=lambda i: bucket(rows[i].question))[:MAX_HELD_OUT]
        held = [] if train is usable else held
        if not held:
            warnings.append(TOO_FEW)
        return Split(train, held, warnings, len(usable), "training")

    def plain_rows(self) -> Iterator[object]:
        """See `HeadTraining`."""
        for row in self.rows:
            yield [row.id, row.question, row.context, row.title, [*row.answers]]
            yield [hit.text[:64] for hit in row.hits]

    def fit(self, split: Split, work: Path, start: StartTicker) -> Fitted[SpanNetwork]:
        """See `HeadTraining`."""
        config, encoder = self.config, self.encoder
        torch.manual_seed(config.seed)
        head = SpanConfig(
            question_tokens=config.question_tokens,
            max_tokens=min(config.max_tokens, encoder.max_tokens),
            features=FEATURES,
            alone=True,
            titles=any(row.title for row in self.rows),
            **head_settings(config, encoder),
        )
        model = SpanNetwork(head, encoder).to(encoder.device)
        ticker = start(config.epochs * -(-len(split.train) // config.batch_size))
        state = fit(model, self.data, split.train, config, work / "main", ticker)
        return Fitted(head, model, state)

    def previous(self, base: Path) -> SpanReader | None:
        """See `HeadTraining`."""
        network = base_network(base, self.config.field, self.encoder, SpanNetwork)
        return None if network is None else SpanReader(network)

    def evaluate(
        self, fitted: Fitted[SpanNetwork], split: Split, previous: SpanReader | None
    ) -> Evaluated:
        """See `HeadTraining`."""
        lang, items = self.config.lang, self.feedback_items
        rows = [self.rows[i] for i in split.held or split.train[:MAX_HELD_OUT]]
        metrics: dict[str, dict[str, float]] = {}
        calibration: dict[str, float] = {}
        if split.held:
            metrics["on"], calibration = calibrate(fitted.model, rows, self.config)
        reader = SpanReader(fitted.model.eval())
        answers = answers_of(reader, previous, rows)
        metrics |= {name: scores(rows, given, lang) for name, given in answers.items()}
        counts = {name: f1_of(rows, given, lang) for name, given in answers.items()}
        if items:
            for name, given in answers_of(reader, previous, items).items():
                counts[name] += f1_of(items, given, lang)
        return Evaluated(metrics, calibration, compare("f1", counts, "given", len(items)))


def calibrate(
    model: SpanNetwork, rows: Sequence[SpanRow], config: SpanTrainConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit mix and judges on rows that were not trained on: figures `on`, and what was fitted.

    Every row is asked over what was retrieved for it, with its own text and without.
    """
    reader = SpanReader(model.eval())
    cases = []
    for own in (True, False):
        for row in rows:
            reading = reader.ask(row.question, retrieved_for(row, config.k, own=own))
            if reading.pairs:
                cases.append(Case(row, reading, own))
    read_all(reader, [case.reading for case in cases])
    calibration = settle(model, cases, config.lang)
    calibration |= calibrate_single(model, rows, config.lang)
    reader = SpanReader(model)
    present = [case for case in cases if case.present]
    answers = [reader.answer(case.reading) for case in present]
    return scores([case.row for case in present], answers, config.lang), calibration


def answers_of(
    reader: SpanReader, previous: SpanReader | None, rows: Sequence[SpanRow]
) -> dict[str, list[SpanAnswer]]:
    """By condition: `given`, `off`, and `previous` where there is such a head."""
    answers = {
        "given": _given(reader, rows),
        "off": [reader.answer(reader.ask(row.question, [])) for row in rows],
    }
    if previous is not None:
        answers["previous"] = _given(previous, rows)
    return answers


def _given(reader: SpanReader, rows: Sequence[SpanRow]) -> list[SpanAnswer]:
    texts = [PassageText(row.context, title=row.title) for row in rows]
    readings = [reader.ask(row.question, [text]) for row, text in zip(rows, texts, strict=True)]
    return ask_all(reader, readings)


def f1_of(
    rows: Sequence[SpanRow], answers: Sequence[SpanAnswer], lang: str
) -> list[tuple[float, float]]:
    """Of each row its F1, and 1: the sums' quotient is the mean."""
    pairs = zip(rows, answers, strict=True)
    return [(f1(answer.text, [t for t, _ in row.answers], lang), 1.0) for row, answer in pairs]


def fit(
    model: SpanNetwork,
    data: Prepared,
    train: Sequence[int],
    config: SpanTrainConfig,
    folder: Path,
    ticker: Ticker,
) -> LoopState:
    """Train on the rows `train`."""

    def loss_of(part: Sequence[int], draws: Draws) -> tuple[Tensor, int]:
        rows = [train[j] for j in part]
        pairs, question, gold = draw(data, rows, config, draws.epoch, draws.chance)
        ids, mask, kinds = collate(model.encoder, pairs)
        places = gold_places(gold, ids.shape[1]).to(ids.device)
        with bf16_products(ids.device):
            logits = model(ids, mask, kinds)
        # Outside: the sums of a softmax in bf16 are off by some percent.
        loss = shared_loss(logits, places, question.to(ids.device), len(part))
        return loss, int(mask.sum())

    lengths = [data.length(i) for i in train]
    return run_epochs(model, config, lengths, loss_of, folder, ticker)
