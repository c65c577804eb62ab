"""Training a question-answering head on rows that arrive with the passages retrieved for them.

A run leaves its state in a folder beside `out` after every epoch; the same call finds it there
and goes on.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.answers import PassageText, SpanReader
from model.batches import epoch_batches
from model.checkpoint import HeadFiles, build, load_heads, save_checkpoint, verify
from model.config import bf16_products
from model.curves import Curve, read_curve
from model.encoder import Encoder
from model.span import SpanConfig, SpanNetwork, collate, shared_loss
from model.span_calibration import Case, ask_all, read_all, retrieved_for, scores, settle
from model.span_examples import Prepared, draw, gold_places, prepare
from model.span_rows import SpanRow, SpanTrainConfig
from model.split import bucket
from model.trainer import Progress, Ticker, load_state, make_optimizer, rate_at, save_state
from model.training import TrainingRefused, open_workspace, thin

MAX_HELD_OUT = 300

__all__ = ["SpanReport", "SpanRow", "SpanTrainConfig", "train_span"]


@dataclass(slots=True)
class SpanReport:
    """What a run did. `metrics` by view, each with exact_match, f1 (percent) and rows: `given` (the
    row's context is read; the figure to compare heads by), `on` (what was retrieved is read),
    `off` (nothing is), `previous` (the base's own head, as `given`). `evaluated_on`: `held-out`,
    or `training` where the rows were too few to hold any out; nothing is calibrated then.
    """

    field: str
    task: str
    rows: int
    trained_on: int
    held_out: int
    evaluated_on: str
    metrics: dict[str, dict[str, float]]
    calibration: dict[str, float]
    k: int
    config: dict[str, Any]
    epochs: int
    tokens_per_second: float
    seconds: float
    encoder_sha256: str
    data_sha256: str
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def train_span(
    rows: Sequence[SpanRow],
    config: SpanTrainConfig,
    encoder: Encoder,
    out: Path,
    *,
    base: Path | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SpanReport:
    """Train a head and write a checkpoint to `out`; the other heads of `base` are copied.

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
        warnings.append("too few rows to hold any out: figures are those of training rows")
    digest = _fingerprint(rows, config, encoder)
    work = out.with_name(f".{out.name}.training")
    open_workspace(work, digest)
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
    )
    model = SpanNetwork(head, encoder).to(encoder.device)
    steps = config.epochs * -(-len(train) // config.batch_size)
    ticker = Ticker(steps, progress, cancelled)
    state = fit(model, data, train, config, work / "main", ticker)
    judged = [rows[i] for i in held or train[:MAX_HELD_OUT]]
    metrics, calibration = judge(model, judged, config, fit=bool(held))
    if base is not None:
        metrics |= _previous(base, encoder, judged, config)
    report = SpanReport(
        field=config.field,
        task=head.task,
        rows=len(usable),
        trained_on=len(train),
        held_out=len(held),
        evaluated_on="held-out" if held else "training",
        metrics=metrics,
        calibration=calibration,
        k=head.k,
        config=config.to_json(),
        epochs=state["epoch"],
        tokens_per_second=state["tokens"] / max(state["seconds"], 1e-9),
        seconds=state["seconds"],
        encoder_sha256=encoder.sha256,
        data_sha256=digest,
        warnings=warnings,
    )
    files = HeadFiles(head, dict(model.state_dict()), report.to_json())
    files.report["curve"] = thin(read_curve(work / "main"))
    save_checkpoint(out, {config.field: files}, encoder, base=base)
    shutil.rmtree(work, ignore_errors=True)
    return report


def judge(
    model: SpanNetwork, rows: Sequence[SpanRow], config: SpanTrainConfig, *, fit: bool
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Figures for the report; `fit`: mix and judges are fitted on these rows first."""
    reader = SpanReader(model.eval())
    cases = []
    for own in (True, False):
        for row in rows:
            asked = reader.ask(row.question, retrieved_for(row, config.k, own=own))
            if asked.pairs:
                cases.append(Case(row, asked, own))
    calibration: dict[str, float] = {}
    if fit:
        read_all(reader, [case.asked for case in cases])
        calibration = settle(model, cases, config.lang)
        reader = SpanReader(model)
        there = [case for case in cases if case.present]
        answers = [reader.answer(case.asked) for case in there]
        metrics = {"on": scores([case.row for case in there], answers, config.lang)}
    else:
        metrics = {}
    metrics["given"] = _given(reader, rows, config)
    metrics["off"] = scores(rows, [reader.answer(reader.ask(r.question, [])) for r in rows], "en")
    return metrics, calibration


def _given(
    reader: SpanReader, rows: Sequence[SpanRow], config: SpanTrainConfig
) -> dict[str, float]:
    asked = [reader.ask(row.question, [PassageText(row.context)]) for row in rows]
    return scores(rows, ask_all(reader, asked), config.lang)


def _previous(
    base: Path, encoder: Encoder, rows: Sequence[SpanRow], config: SpanTrainConfig
) -> dict[str, dict[str, float]]:
    """The base's own head on the same rows."""
    head = load_heads(base)[1].get(config.field)
    network = build(head, encoder) if head is not None else None
    if not isinstance(network, SpanNetwork):
        return {}
    network = network.requires_grad_(False).to(encoder.device)
    return {"previous": _given(SpanReader(network), rows, config)}


def _fingerprint(rows: Sequence[SpanRow], config: SpanTrainConfig, encoder: Encoder) -> str:
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode())
    digest.update(encoder.sha256.encode())
    for row in rows:
        digest.update(json.dumps([row.id, row.question, row.context, [*row.answers]]).encode())
        digest.update(json.dumps([hit.text[:64] for hit in row.hits]).encode())
    return digest.hexdigest()


def fit(
    model: SpanNetwork,
    data: Prepared,
    train: Sequence[int],
    config: SpanTrainConfig,
    folder: Path,
    ticker: Ticker,
) -> dict[str, Any]:
    """Train on the rows `train`; what an epoch draws follows from seed and epoch alone."""
    per_epoch = -(-len(train) // config.batch_size)
    optimizer = make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    state: dict[str, Any] = load_state(folder, model, optimizer) or {
        "epoch": 0, "tokens": 0, "seconds": 0.0, "losses": [],
    }  # fmt: skip
    ticker.skip(state["epoch"] * per_epoch)
    lengths = [data.length(i) for i in train]
    with Curve(folder, start=state["epoch"] * per_epoch - 1) as curve:
        while state["epoch"] < config.epochs:
            epoch, began = state["epoch"], time.monotonic()
            torch.manual_seed(config.seed * 1009 + epoch)
            rng = random.Random(config.seed * 7919 + epoch)
            order = torch.Generator().manual_seed(config.seed * 7919 + epoch)
            model.train()
            losses = []
            for i, part in enumerate(epoch_batches(lengths, config.batch_size, order)):
                step = epoch * per_epoch + i
                factor = rate_at(step, config.epochs * per_epoch, config.warmup)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                pairs, question, gold = draw(data, [train[j] for j in part], config, epoch, rng)
                ids, mask, kinds = collate(model.encoder, pairs)
                places = gold_places(gold, ids.shape[1]).to(ids.device)
                with bf16_products(ids.device):
                    logits = model(ids, mask, kinds)
                    loss = shared_loss(logits, places, question.to(ids.device), len(part))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                losses.append(float(loss.detach()))
                state["tokens"] += int(mask.sum())
                curve.add(step, loss=losses[-1], lr=rates[0] * factor)
                ticker.tick(losses[-1])
            state["seconds"] += time.monotonic() - began
            state["losses"].append(sum(losses) / len(losses))
            state["epoch"] += 1
            save_state(folder, model, optimizer, state)
    model.eval()
    return state
