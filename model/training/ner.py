"""Training a head for named entities on rows that arrive with their labelled hits.

Retrieval has happened already (never the row itself or a near-duplicate). A run leaves its state in
a folder beside `out` after every epoch; the same call finds it there and goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import verify
from model.config import bf16_products
from model.encoder.encoder import Encoder, batches_by_length
from model.metrics import Compared
from model.ner.crf import nll
from model.ner.evidence import TagHit
from model.ner.metrics import Said, calibration_of, row_counts, span_scores
from model.ner.network import TagConfig, TagNetwork, collate
from model.ner.rows import TagRow, TagTrainConfig
from model.ner.tagger import Tagger
from model.training.epochs import Losses, run_epochs
from model.training.feedback import compare_feedback
from model.training.ner_examples import Prepared, padded, prepare
from model.training.split import bucket
from model.training.trainer import Progress, Ticker, TrainingCancelled
from model.training.workspace import (
    TOO_FEW,
    HeadReport,
    TrainingRefused,
    fingerprint,
    open_workspace,
    previous_head,
    publish,
)

MAX_HELD_OUT = 1000
JUDGED_AT_ONCE = 64

__all__ = ["TagReport", "TagRow", "TagTrainConfig", "TrainingCancelled", "train_tagger"]


@dataclass(slots=True)
class TagReport(HeadReport):
    """What a run did. `metrics` by view: `on`, `off` (same weights, book closed), `none` (trained
    without retrieval), `neighbours` (the hits alone), `previous` (the base's own head); each with
    precision, recall, f1 of whole spans (0 to 1) and rows. `evaluated_on`: `held-out`, or
    `training` where the rows were too few to hold any out; nothing is calibrated then.
    `diagnosis.paired`: F1 with hits against every other view.
    """

    types: list[str]
    by_type: dict[str, float]


def train_tagger(
    rows: Sequence[TagRow],
    config: TagTrainConfig,
    encoder: Encoder,
    out: Path,
    *,
    base: Path | None = None,
    baseline: bool = True,
    feedback_items: Sequence[TagRow] = (),
    documents: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TagReport:
    """Train a head and write a checkpoint to `out`; the other heads of `base` are copied.

    `baseline`: also train *none*, the same without retrieval, for the report. `opinions`: further
    rows that are only measured on, for the gate. `documents`: what is written down of where the
    rows come from (`model.provenance`).

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
    warnings = [] if held else [TOO_FEW]
    digest = fingerprint(config.to_json(), encoder, _plain(rows))
    work = open_workspace(out, digest)
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
    asked = [*judged, *feedback_items]
    replies = {
        "on": _answers(ran, asked, closed=not config.retrieval),
        "off": _answers(ran, asked, closed=True),
    }
    if config.retrieval:
        replies["neighbours"] = _answers(Tagger.without_head(encoder), asked)
    if both:
        plain = dataclasses.replace(config, retrieval=False)
        other, _ = _stage("none", head, encoder, data, plain, work, ticker)
        replies["none"] = _answers(Tagger(other), asked, closed=True)
    before = previous_head(base, config.field, encoder, TagNetwork)
    if before is not None:
        replies["previous"] = _answers(Tagger(before), asked)
        if lost := sorted({*before.config.types} - {*types}):
            warnings.append(f"the head that serves knows types that no row carries: {_few(lost)}")
    truth, n = [row.entities for row in asked], len(judged)
    if held:
        calibration |= calibration_of(truth[:n], replies["on"][:n])
    found = {view: span_scores(truth[:n], said[:n]) for view, said in replies.items()}
    rivals = {view: row_counts(truth, said) for view, said in replies.items()}
    ours = rivals.pop("on")
    diagnosis: dict[str, Any] = {
        "by_label": {view: one.by_type for view, one in found.items()},
        "paired": {
            view: Compared.of("f1", ours[:n], theirs[:n]).to_json()
            for view, theirs in rivals.items()
        },
    }
    if feedback_items:
        diagnosis["feedback"] = compare_feedback("f1", ours, rivals, len(feedback_items))
    report = TagReport(
        field=config.field,
        task=head.task,
        types=types,
        rows=len(rows),
        trained_on=len(train),
        held_out=len(held),
        evaluated_on="held-out" if held else "training",
        metrics={view: one.to_json() for view, one in found.items()},
        by_type=found["on"].by_type,
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


def _few(names: Sequence[str], most: int = 10) -> str:
    """Some names in a warning."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + rest


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
    lengths = [len(window.ids) for window in data.windows]

    def losses(_: int, generator: torch.Generator) -> Losses:
        def loss_of(part: Sequence[int]) -> tuple[Tensor, int]:
            return _loss(model, data, part, config, generator), sum(lengths[i] for i in part)

        return loss_of

    return run_epochs(model, config, lengths, losses, folder, ticker)


def _loss(
    model: TagNetwork,
    data: Prepared,
    part: Sequence[int],
    config: TagTrainConfig,
    generator: torch.Generator,
) -> Tensor:
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
    truth = padded([data.tags[i] for i in part], batch)
    with bf16_products(batch.ids.device):
        emissions = model(batch, lower)
    return model.crf.loss(emissions.float(), truth, batch.words).mean()


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
        parts.append((model(batch), padded([data.tags[i] for i in some], batch), batch.words))
    start, transitions = model.crf.tables()
    best, least = 1.0, float("inf")
    for temperature in np.geomspace(0.5, 4.0, 25).tolist():
        scaled = (start / temperature, transitions / temperature)
        loss = sum(float(nll(e / temperature, t, m, *scaled).sum()) for e, t, m in parts)
        if loss < least:
            best, least = temperature, loss
    model.log_temperature.fill_(float(np.log(best)))
    return {"temperature": best}


def _answers(tagger: Tagger, rows: Sequence[TagRow], *, closed: bool = False) -> list[list[Said]]:
    out: list[list[Said]] = []
    for start in range(0, len(rows), JUDGED_AT_ONCE):
        part = rows[start : start + JUDGED_AT_ONCE]
        hits: list[Sequence[TagHit]] = [[] if closed else row.hits for row in part]
        with bf16_products(tagger.encoder.device):  # as it is served
            found = tagger.answer([row.text for row in part], hits)
        out += [[(e.start, e.end, e.type, e.score) for e in answer.entities] for answer in found]
    return out


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


def _plain(rows: Sequence[TagRow]) -> Iterator[object]:
    for row in rows:
        yield [row.id, row.text, row.entities]
        yield from ([hit.text[:64], hit.entities, round(hit.score, 4)] for hit in row.hits)
