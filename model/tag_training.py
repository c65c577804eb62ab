"""Training a head for named entities on rows that arrive with their labelled hits.

Retrieval has happened already (never the row itself or a near-duplicate). A run leaves its state in
a folder beside `out` after every epoch; the same call finds it there and goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from model.batches import CACHE_BYTES, epoch_batches
from model.checkpoint import HeadFiles, build, load_heads, save_checkpoint, verify
from model.config import bf16_products
from model.crf import nll, tags_of
from model.curves import Curve, read_curve
from model.encoder import Encoder, batches_by_length
from model.split import bucket
from model.tag_evidence import Entities, TagHit, occurrences
from model.tag_evidence import features as evidence_of
from model.tag_metrics import Scores, calibration_of, span_scores
from model.tagger import Tagger
from model.tagging import Batch, TagConfig, TagNetwork, Window, collate, windows
from model.trainer import Progress, Ticker, load_state, make_optimizer, rate_at, save_state
from model.training import TrainingCancelled, TrainingRefused, open_workspace, thin
from model.words import split_words

MAX_HELD_OUT = 1000
JUDGED_AT_ONCE = 64

__all__ = ["TagReport", "TagRow", "TagTrainConfig", "TrainingCancelled", "train_tagger"]


@dataclass(frozen=True, slots=True)
class TagRow:
    """A sentence with its entities (code points, in order, no overlap) and its labelled hits."""

    id: str
    text: str
    entities: Entities
    hits: list[TagHit] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TagTrainConfig:
    """One training run. None says: choose by the number of rows (see `resolved`)."""

    field: str = "ner"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    k: int = 48
    holdout: float = 0.1  # share of the rows, by hash of the normalised text; 0: none
    layers: int = 4
    rank: int = 16
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    dropout: float = 0.1
    drop_retrieval: float = 0.3  # share of the rows that are seen with the book closed
    max_grad_norm: float = 1.0
    max_tokens: int = 256
    retrieval: bool = True  # False: the baseline *none*, trained with the book closed

    def resolved(self, rows: int) -> TagTrainConfig:
        """Fill in what depends on the size of the training set (`rows` that are trained on)."""
        sizes = ((400, 20), (1500, 12), (5000, 8), (10000, 6))
        epochs = self.epochs or next((n for limit, n in sizes if rows < limit), 4)
        batch = self.batch_size or (8 if rows < 1500 else 16)
        lr = self.lr or (1e-3 if self.optimizer == "adamw" else 0.05)
        return dataclasses.replace(self, epochs=epochs, batch_size=batch, lr=lr)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)


@dataclass(slots=True)
class TagReport:
    """What a run did. `metrics` by view: `on`, `off` (same weights, book closed), `none` (trained
    without retrieval), `neighbours` (the hits alone), `previous` (the base's own head); each with
    precision, recall, f1 of whole spans (0 to 1) and rows. `evaluated_on`: `held-out`, or
    `training` where the rows were too few to hold any out; nothing is calibrated then.
    """

    field: str
    task: str
    types: list[str]
    rows: int
    trained_on: int
    held_out: int
    evaluated_on: str
    metrics: dict[str, dict[str, float]]
    by_type: dict[str, float]
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


def train_tagger(
    rows: Sequence[TagRow],
    config: TagTrainConfig,
    encoder: Encoder,
    out: Path,
    *,
    base: Path | None = None,
    baseline: bool = True,
    documents: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TagReport:
    """Train a head and write a checkpoint to `out`; the other heads of `base` are copied.

    `baseline`: also train *none*, the same without retrieval, for the report. `documents`: what is
    written down of where the rows come from (`model.provenance`).

    Raises:
        TrainingRefused: No row carries an entity; or entities that overlap or lie outside a text.
        TrainingCancelled: `cancelled` answered true; the same call resumes.
        CheckpointRefused: `base` does not verify or belongs to another encoder; `out` exists.
    """
    if base is not None:
        verify(base)  # before the work, not after it
    types = _types(rows)
    train, held = _split(rows, config.holdout)
    config = config.resolved(len(train))
    warnings = [] if held else ["too few rows to hold any out: figures are those of training rows"]
    digest = _fingerprint(rows, config, encoder)
    work = out.with_name(f".{out.name}.training")
    open_workspace(work, digest)
    head = TagConfig(
        types=tuple(types),
        encoder_sha256=encoder.sha256,
        field=config.field,
        dim=encoder.dim,
        layers=min(config.layers, encoder.depth),
        rank=config.rank,
        k=config.k,
        max_tokens=min(config.max_tokens, encoder.max_tokens),
        dropout=config.dropout,
    )
    data = prepare(encoder, head, [rows[i] for i in train])
    judged = [rows[i] for i in held or train[:MAX_HELD_OUT]]
    both = baseline and config.retrieval
    steps = int(config.epochs or 1) * -(-len(data.windows) // int(config.batch_size or 1))
    ticker = Ticker(steps * (1 + both), progress, cancelled)
    model, state = _stage("main", head, encoder, data, config, work, ticker)
    ran = Tagger(model)
    calibration = calibrate(model, judged) if held else {}
    open_book = _answers(ran, judged, closed=not config.retrieval)
    whole = span_scores([row.entities for row in judged], open_book)
    calibration |= calibration_of([row.entities for row in judged], open_book) if held else {}
    metrics = {"on": whole.to_json()}
    metrics["off"] = _scores(ran, judged, closed=True).to_json()
    metrics["neighbours"] = _scores(Tagger.without_head(encoder), judged).to_json()
    if both:
        plain = dataclasses.replace(config, retrieval=False)
        other, _ = _stage("none", head, encoder, data, plain, work, ticker)
        metrics["none"] = _scores(Tagger(other), judged, closed=True).to_json()
    if base is not None:
        previous = load_heads(base)[1].get(config.field)
        network = build(previous, encoder) if previous is not None else None
        if isinstance(network, TagNetwork):
            network = network.requires_grad_(False).to(encoder.device)
            metrics["previous"] = _scores(Tagger(network), judged).to_json()
    report = TagReport(
        field=config.field,
        task=head.task,
        types=types,
        rows=len(rows),
        trained_on=len(train),
        held_out=len(held),
        evaluated_on="held-out" if held else "training",
        metrics=metrics,
        by_type=whole.by_type,
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
    files = HeadFiles(head, dict(model.state_dict()), report.to_json(), documents)
    files.report["curve"] = thin(read_curve(work / "main"))
    save_checkpoint(out, {config.field: files}, encoder, base=base)
    shutil.rmtree(work, ignore_errors=True)
    return report


@dataclass(slots=True)
class Prepared:
    """Windows of all rows, with what their hits say, their tags, and the states below the head."""

    windows: list[Window]
    evidence: list[np.ndarray[Any, np.dtype[np.float32]]]
    tags: list[list[int]]
    lower: list[Tensor] | None  # [t, d] each, half precision; None: too many to keep


def prepare(encoder: Encoder, head: TagConfig, rows: Sequence[TagRow]) -> Prepared:
    """Split, tokenise, look up, and run the frozen layers once."""
    data = Prepared([], [], [], [])
    kinds = {kind: i for i, kind in enumerate(head.types)}
    for row in rows:
        words = split_words(row.text)
        spans = []
        for start, end, kind in row.entities:
            inside = [i for i, w in enumerate(words) if w.start < end and w.end > start]
            if inside and kind in kinds:
                spans.append((inside[0], inside[-1] + 1, kinds[kind]))
        tags = tags_of(spans, len(words))
        said = evidence_of(occurrences(words, row.hits[: head.k]), head.types)
        at = 0
        for window in windows(encoder, row.text, words, head.max_tokens):
            n = len(window.words)
            data.windows.append(window)
            data.tags.append(tags[at : at + n])
            data.evidence.append(said[at : at + n])
            at += n
    size = sum(len(window.ids) for window in data.windows) * encoder.dim * 2
    if size > CACHE_BYTES:
        data.lower = None
        return data
    kept: list[Tensor] = [torch.empty(0)] * len(data.windows)
    lengths = [len(window.ids) for window in data.windows]
    for part in batches_by_length(lengths, budget=4096):
        ids, mask = encoder.pad([data.windows[i].ids for i in part])
        for i, states in zip(part, encoder.lower(ids, mask, head.layers), strict=True):
            kept[i] = states[: lengths[i]].to(torch.float16).clone()
    data.lower = kept
    return data


def _stage(
    name: str,
    head: TagConfig,
    encoder: Encoder,
    data: Prepared,
    config: TagTrainConfig,
    work: Path,
    ticker: Ticker,
) -> tuple[TagNetwork, dict[str, Any]]:
    torch.manual_seed(config.seed)
    model = TagNetwork(head, encoder).to(encoder.device)
    return model, fit(model, data, config, work / name, ticker)


def fit(
    model: TagNetwork, data: Prepared, config: TagTrainConfig, folder: Path, ticker: Ticker
) -> dict[str, Any]:
    """Train on all windows; what an epoch draws follows from seed and epoch alone."""
    epochs, size = int(config.epochs or 1), int(config.batch_size or 16)
    per_epoch = -(-len(data.windows) // size)
    optimizer = make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    state: dict[str, Any] = load_state(folder, model, optimizer) or {
        "epoch": 0, "tokens": 0, "seconds": 0.0, "losses": [],
    }  # fmt: skip
    ticker.skip(state["epoch"] * per_epoch)
    lengths = [len(window.ids) for window in data.windows]
    with Curve(folder, start=state["epoch"] * per_epoch - 1) as curve:
        while state["epoch"] < epochs:
            epoch, began = state["epoch"], time.monotonic()
            torch.manual_seed(config.seed * 1009 + epoch)
            generator = torch.Generator().manual_seed(config.seed * 7919 + epoch)
            model.train()
            losses: list[float] = []
            for i, part in enumerate(epoch_batches(lengths, size, generator)):
                step = epoch * per_epoch + i
                factor = rate_at(step, epochs * per_epoch, config.warmup)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                loss = _step(model, data, part, config, optimizer, generator)
                losses.append(loss)
                curve.add(step, loss=loss, lr=rates[0] * factor)
                ticker.tick(loss)
            state["tokens"] += sum(lengths)
            state["seconds"] += time.monotonic() - began
            state["losses"].append(float(np.mean(losses)))
            state["epoch"] += 1
            save_state(folder, model, optimizer, state)
    model.eval()
    return state


def _step(
    model: TagNetwork,
    data: Prepared,
    part: Sequence[int],
    config: TagTrainConfig,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    encoder = model.encoder
    batch = collate(encoder, [data.windows[i] for i in part], [data.evidence[i] for i in part])
    closed = torch.rand(len(part), generator=generator) < config.drop_retrieval
    if not config.retrieval:
        closed = torch.ones(len(part), dtype=torch.bool)
    keep = (~closed).to(batch.evidence)[:, None, None]
    batch = batch._replace(evidence=batch.evidence * keep)
    lower = None
    if data.lower is not None:
        lower = torch.zeros(*batch.ids.shape, encoder.dim, device=encoder.device)
        for out, i in zip(lower, part, strict=True):
            out[: len(data.lower[i])] = data.lower[i].to(lower)
    truth = _padded([data.tags[i] for i in part], batch)
    with bf16_products(batch.ids.device):
        emissions = model(batch, lower)
    loss = model.crf.loss(emissions.float(), truth, batch.words).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return float(loss.detach())


def _padded(tags: Sequence[Sequence[int]], batch: Batch) -> Tensor:
    truth = torch.zeros(batch.words.shape, dtype=torch.long)
    for out, row in zip(truth, tags, strict=True):
        out[: len(row)] = torch.tensor(row)
    return truth.to(batch.words.device)


@torch.no_grad()
def calibrate(model: TagNetwork, rows: Sequence[TagRow]) -> dict[str, float]:
    """Fit the temperature on rows that were not trained on, by the likelihood of their tags."""
    model.eval()
    data = prepare(model.encoder, model.config, rows)
    parts = []
    for some in batches_by_length([len(w.ids) for w in data.windows], budget=4096):
        batch = collate(
            model.encoder, [data.windows[i] for i in some], [data.evidence[i] for i in some]
        )
        parts.append((model(batch), _padded([data.tags[i] for i in some], batch), batch.words))
    start, transitions = model.crf.tables()
    best, least = 1.0, float("inf")
    for temperature in np.geomspace(0.5, 4.0, 25).tolist():
        scaled = (start / temperature, transitions / temperature)
        loss = sum(float(nll(e / temperature, t, m, *scaled).sum()) for e, t, m in parts)
        if loss < least:
            best, least = temperature, loss
    model.log_temperature.fill_(float(np.log(best)))
    return {"temperature": best}


def _answers(
    tagger: Tagger, rows: Sequence[TagRow], *, closed: bool = False
) -> list[list[tuple[int, int, str, float]]]:
    out: list[list[tuple[int, int, str, float]]] = []
    for start in range(0, len(rows), JUDGED_AT_ONCE):
        part = rows[start : start + JUDGED_AT_ONCE]
        hits: list[Sequence[TagHit]] = [[] if closed else row.hits for row in part]
        found = tagger.answer([row.text for row in part], hits)
        out += [[(e.start, e.end, e.type, e.score) for e in answer.entities] for answer in found]
    return out


def _scores(tagger: Tagger, rows: Sequence[TagRow], *, closed: bool = False) -> Scores:
    return span_scores([row.entities for row in rows], _answers(tagger, rows, closed=closed))


def _types(rows: Sequence[TagRow]) -> list[str]:
    for row in rows:
        end = 0
        for first, stop, _ in row.entities:
            if not end <= first < stop <= len(row.text):
                raise TrainingRefused(
                    f"row {row.id[:80]!r}: entities overlap, are out of order or lie outside it"
                )
            end = stop
    types = sorted({kind for row in rows for _, _, kind in row.entities})
    if not types:
        raise TrainingRefused(f"none of the {len(rows)} rows carries an entity")
    return types


def _split(rows: Sequence[TagRow], holdout: float) -> tuple[list[int], list[int]]:
    order = sorted(range(len(rows)), key=lambda i: (bucket(rows[i].text), i))
    limit = min(int(len(rows) * holdout), MAX_HELD_OUT)
    held = [i for i in order[:limit] if bucket(rows[i].text) < holdout]
    apart = set(held)
    return [i for i in range(len(rows)) if i not in apart], held


def _fingerprint(rows: Sequence[TagRow], config: TagTrainConfig, encoder: Encoder) -> str:
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode())
    digest.update(encoder.sha256.encode())
    for row in rows:
        digest.update(json.dumps([row.id, row.text, row.entities]).encode())
        for hit in row.hits:
            digest.update(json.dumps([hit.text[:64], hit.entities, round(hit.score, 4)]).encode())
    return digest.hexdigest()
