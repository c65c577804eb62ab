"""Training a question-answering head on rows that arrive with the passages retrieved for them.

A run leaves its state in a folder beside `out` after every epoch; the same call finds it there
and goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import verify
from model.config import bf16_products
from model.encoder.encoder import Encoder
from model.metrics import Compared
from model.qa.answers import SpanAnswer, SpanReader
from model.qa.evidence import PassageText
from model.qa.metrics import f1
from model.qa.network import FEATURES, SpanConfig, SpanNetwork, collate, shared_loss
from model.qa.rows import SpanRow, SpanTrainConfig
from model.training.epochs import Losses, run_epochs
from model.training.feedback import compare_feedback
from model.training.qa_calibration import (
    Case,
    alone_for,
    ask_all,
    read_all,
    retrieved_for,
    scores,
    settle,
    settle_alone,
)
from model.training.qa_examples import Prepared, draw, gold_places, prepare
from model.training.split import bucket
from model.training.trainer import Progress, Ticker
from model.training.workspace import (
    TOO_FEW,
    HeadReport,
    TrainingRefused,
    fingerprint,
    open_workspace,
    previous_head,
    publish,
)

MAX_HELD_OUT = 300

__all__ = ["SpanReport", "SpanRow", "SpanTrainConfig", "train_span"]


@dataclass(slots=True)
class SpanReport(HeadReport):
    """What a run did. `metrics` by view, each with exact_match, f1 (percent) and rows: `given` (the
    row's context is read; the figure to compare heads by), `on` (what was retrieved is read),
    `off` (nothing is), `previous` (the base's own head, as `given`). `evaluated_on`: `held-out`,
    or `training` where the rows were too few to hold any out; nothing is calibrated then.
    `diagnosis.paired`: F1 as `given` against `off` and `previous`.
    """


def train_span(
    rows: Sequence[SpanRow],
    config: SpanTrainConfig,
    encoder: Encoder,
    out: Path,
    *,
    base: Path | None = None,
    feedback_items: Sequence[SpanRow] = (),
    documents: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SpanReport:
    """Train a head and write a checkpoint to `out`; the other heads of `base` are copied.

    `opinions`: further rows that are only measured on, for the gate. `documents`: what is written
    down of where the rows come from (`model.provenance`).

    Raises:
        TrainingRefused: No row has an answer that stands in its context.
        TrainingCancelled: `cancelled` answered true; the same call resumes.
        CheckpointRefused: `base` does not verify or belongs to another encoder; `out` exists.
    """
    if base is not None:
        verify(base)  # before the work, not after it
    data = prepare(encoder, rows, config)
    usable = [i for i, gold in enumerate(data.gold) if gold]
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
    digest = fingerprint(config.to_json(), encoder, _plain(rows))
    work = open_workspace(out, digest)
    torch.manual_seed(config.seed)
    head = SpanConfig(
        encoder_sha256=encoder.sha256,
        field=config.field,
        dim=encoder.dim,
        layers=min(config.layers, encoder.depth),
        rank=config.rank,
        dropout=config.dropout,
        question_tokens=config.question_tokens,
        max_tokens=min(config.max_tokens, encoder.max_tokens),
        k=config.k,
        features=FEATURES,
        alone=True,
        titles=any(row.title for row in rows),
    )
    model = SpanNetwork(head, encoder).to(encoder.device)
    steps = config.epochs * -(-len(train) // config.batch_size)
    ticker = Ticker(steps, progress, cancelled)
    state = fit(model, data, train, config, work / "main", ticker)
    judged = [rows[i] for i in held or train[:MAX_HELD_OUT]]
    metrics, calibration, answers = judge(model, judged, config, fit=bool(held))
    before = previous_head(base, config.field, encoder, SpanNetwork)
    if before is not None:
        answers["previous"] = _given(SpanReader(before), judged)
        metrics["previous"] = scores(judged, answers["previous"], config.lang)
    rivals = {view: f1_of(judged, said, config.lang) for view, said in answers.items()}
    ours = rivals.pop("given")
    paired = {view: Compared.of("f1", ours, theirs).to_json() for view, theirs in rivals.items()}
    diagnosis: dict[str, Any] = {"paired": paired}
    if feedback_items:
        ran = SpanReader(model)
        ours += f1_of(feedback_items, _given(ran, feedback_items), config.lang)
        rivals["off"] += f1_of(feedback_items, _closed(ran, feedback_items), config.lang)
        if before is not None:
            said = _given(SpanReader(before), feedback_items)
            rivals["previous"] += f1_of(feedback_items, said, config.lang)
        diagnosis["feedback"] = compare_feedback("f1", ours, rivals, len(feedback_items))
    report = SpanReport(
        field=config.field,
        task=head.task,
        rows=len(usable),
        trained_on=len(train),
        held_out=len(held),
        evaluated_on="held-out" if held else "training",
        metrics=metrics,
        calibration=calibration,
        diagnosis=diagnosis,
        k=head.k,
        config=config.to_json(),
        epochs=state["epoch"],
        tokens_per_second=state["tokens"] / max(state["seconds"], 1e-9),
        seconds=state["seconds"],
        encoder_sha256=encoder.sha256,
        data_sha256=digest,
        warnings=warnings,
    )
    publish(out, head, model, report, encoder, base=base, work=work, documents=documents)
    return report


def judge(
    model: SpanNetwork, rows: Sequence[SpanRow], config: SpanTrainConfig, *, fit: bool
) -> tuple[dict[str, dict[str, float]], dict[str, float], dict[str, list[SpanAnswer]]]:
    """Figures, calibration, and the answers `given` and `off`.

    `fit`: mix and judges are fitted on these rows first.
    """
    reader = SpanReader(model.eval())
    cases = []
    for own in (True, False):
        for row in rows:
            asked = reader.ask(row.question, retrieved_for(row, config.k, own=own))
            if asked.pairs:
                cases.append(Case(row, asked, own))
    calibration: dict[str, float] = {}
    metrics: dict[str, dict[str, float]] = {}
    if fit:
        read_all(reader, [case.asked for case in cases])
        calibration = settle(model, cases, config.lang)
        calibration |= judge_alone(model, rows, config.lang)
        reader = SpanReader(model)
        there = [case for case in cases if case.present]
        found = [reader.answer(case.asked) for case in there]
        metrics["on"] = scores([case.row for case in there], found, config.lang)
    answers = {
        "given": _given(reader, rows),
        "off": _closed(reader, rows),
    }
    metrics |= {view: scores(rows, said, config.lang) for view, said in answers.items()}
    return metrics, calibration, answers


def judge_alone(model: SpanNetwork, rows: Sequence[SpanRow], lang: str) -> dict[str, float]:
    """Fit the judges of a single passage on these rows; how well they do on them."""
    reader = SpanReader(model.eval())
    asked = [
        Case(row, reader.ask(row.question, [passage]), present)
        for row in rows
        for passage, present in alone_for(row)
    ]
    cases = [case for case in asked if case.asked.pairs]
    read_all(reader, [case.asked for case in cases])
    return settle_alone(model, cases, lang)


def f1_of(
    rows: Sequence[SpanRow], answers: Sequence[SpanAnswer], lang: str
) -> list[tuple[float, float]]:
    """Of each row its F1, and 1: the sums' quotient is the mean."""
    said = [answer.spans[0].text if answer.spans else "" for answer in answers]
    truths = [[text for text, _ in row.answers] for row in rows]
    return [(f1(s, t, lang), 1.0) for s, t in zip(said, truths, strict=True)]


def _given(reader: SpanReader, rows: Sequence[SpanRow]) -> list[SpanAnswer]:
    own = [PassageText(row.context, title=row.title) for row in rows]
    asked = [reader.ask(row.question, [text]) for row, text in zip(rows, own, strict=True)]
    return ask_all(reader, asked)


def _closed(reader: SpanReader, rows: Sequence[SpanRow]) -> list[SpanAnswer]:
    return [reader.answer(reader.ask(row.question, [])) for row in rows]


def _plain(rows: Sequence[SpanRow]) -> Iterator[object]:
    for row in rows:
        yield [row.id, row.question, row.context, row.title, [*row.answers]]
        yield [hit.text[:64] for hit in row.hits]


def fit(
    model: SpanNetwork,
    data: Prepared,
    train: Sequence[int],
    config: SpanTrainConfig,
    folder: Path,
    ticker: Ticker,
) -> dict[str, Any]:
    """Train on the rows `train`; what an epoch draws follows from seed and epoch alone."""

    def losses(epoch: int, _: torch.Generator) -> Losses:
        rng = random.Random(config.seed * 7919 + epoch)

        def loss_of(part: Sequence[int]) -> tuple[Tensor, int]:
            pairs, question, gold = draw(data, [train[j] for j in part], config, epoch, rng)
            ids, mask, kinds = collate(model.encoder, pairs)
            places = gold_places(gold, ids.shape[1]).to(ids.device)
            with bf16_products(ids.device):
                logits = model(ids, mask, kinds)
            # Outside: the sums of a softmax in bf16 are off by some percent.
            loss = shared_loss(logits, places, question.to(ids.device), len(part))
            return loss, int(mask.sum())

        return loss_of

    lengths = [data.length(i) for i in train]
    return run_epochs(model, config, lengths, losses, folder, ticker)
