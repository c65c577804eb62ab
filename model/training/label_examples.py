"""Rows as numbers: prepared once, padded into batches, read by a network for the gate's fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import TrainConfig
from model.encoder.encoder import Encoder, batches_by_length, mean_pool
from model.encoder.windows import join_windows, split_windows
from model.labels.memory import Memory, Retrieved, make_memory
from model.labels.network import RetrievalAugmentedModel
from model.training.calibration import Evidence, join

CACHE_BYTES = 2 << 30
"""States of the lower layers are kept up to this size; beyond it they are computed each time."""
ENCODE_TOKENS = 4096


@dataclass(slots=True)
class Prepared:
    """Rows as numbers. `lower` is None where the states are too many to keep."""

    token_ids: list[list[int]]
    truth: Tensor  # [n]; of independent labels [n, L], 0 or 1
    hits: list[list[Retrieved]]
    base: Tensor  # [n, d]
    lower: list[Tensor] | None  # n times [t, d], half precision
    window: int  # the longest window


@dataclass(slots=True)
class Batch:
    """Some rows, padded. A long row is several windows of `lower`, `counts` of them a row."""

    lower: Tensor  # [w, t, d]; w = b where every row is one window
    mask: Tensor  # [w, t]
    counts: list[int]
    base: Tensor  # [b, d]
    memory: Memory
    truth: Tensor  # [b]


def prepare(
    encoder: Encoder,
    texts: Sequence[str],
    truth: Sequence[int] | Tensor,
    hits: Sequence[Sequence[Retrieved]],
    config: TrainConfig,
) -> Prepared:
    """Tokenise, and run the frozen encoder once over every row."""
    token_ids = encoder.tokenize(texts, max_tokens=config.max_tokens, windows=config.windows)
    window = min(config.max_tokens, encoder.max_tokens)
    parts = split_windows(token_ids, window)
    flat = [(i, n, ids) for i, row in enumerate(parts) for n, ids in enumerate(row)]
    depth = encoder.depth
    split = depth - config.layers
    size = sum(len(row) for row in token_ids) * encoder.dim * 2
    keep: list[Tensor] | None = None
    if size <= CACHE_BYTES:
        keep = [torch.empty(len(row), encoder.dim, dtype=torch.float16) for row in token_ids]
    base = torch.empty(len(token_ids), encoder.dim)
    for picks in batches_by_length([len(ids) for _, _, ids in flat], budget=ENCODE_TOKENS):
        ids, mask = encoder.pad([flat[j][2] for j in picks])
        with torch.no_grad():
            lower = encoder.layers(encoder.embed(ids, mask), mask, 0, split)
            first = [at for at, j in enumerate(picks) if flat[j][1] == 0]
            if first:  # documents are found by the beginning of a text
                top = encoder.layers(lower[first], mask[first], split, depth)
                base[[flat[picks[at]][0] for at in first]] = (
                    encoder.pool(top, mask[first]).float().cpu()
                )
        if keep is not None:
            for j, states in zip(picks, lower, strict=True):
                i, n, part = flat[j]
                keep[i][n * window : n * window + len(part)] = states[: len(part)].to(torch.float16)
    known = truth if isinstance(truth, Tensor) else torch.tensor(truth, dtype=torch.long)
    return Prepared(token_ids, known, [list(h) for h in hits], base, keep, window)


def make_batch(model: RetrievalAugmentedModel, data: Prepared, rows: Sequence[int]) -> Batch:
    """Pad some rows."""
    encoder, config = model.encoder, model.config
    parts = split_windows([data.token_ids[i] for i in rows], data.window)
    ids, mask = encoder.pad([ids for row in parts for ids in row])
    if data.lower is None:
        lower = encoder.lower(ids, mask, config.layers)
    else:
        lower = torch.zeros(*ids.shape, encoder.dim, dtype=encoder.dtype, device=encoder.device)
        cached = (window for i in rows for window in data.lower[i].split(data.window))
        for out, window in zip(lower, cached, strict=True):
            out[: len(window)] = window.to(encoder.device, encoder.dtype)
    # All hits that came along: how many of them count is fitted afterwards.
    widest = max((len(data.hits[i]) for i in rows), default=0)
    memory = make_memory(
        [data.hits[i] for i in rows],
        config.labels,
        encoder.dim,
        widest,
        multilabel=config.multilabel,
    ).to(encoder.device)
    base = data.base[list(rows)].to(encoder.device)
    counts = [len(row) for row in parts]
    return Batch(lower, mask, counts, base, memory, data.truth[list(rows)].to(encoder.device))


def adapted(model: RetrievalAugmentedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Adapted states [b, T, d] of whole texts, and their mask [b, T]."""
    return join_windows(model.adapted(batch.lower, batch.mask), batch.mask, batch.counts)


def evidence_of(
    model: RetrievalAugmentedModel,
    data: Prepared,
    rows: Sequence[int],
    *,
    closed_only: bool = False,
) -> tuple[Evidence, Tensor]:
    """Head and hits for some rows, in their order; and the logits with the book closed [n, L]."""
    model.eval()
    order: list[int] = []
    parts: list[Evidence] = []
    closed: list[Tensor] = []
    lengths = [len(data.token_ids[i]) for i in rows]
    mixture = model.mixture
    kernel = torch.stack([mixture.log_scale, mixture.log_ridge]).detach().exp().float().cpu()
    with torch.no_grad():
        for picks in batches_by_length(lengths, budget=ENCODE_TOKENS):
            batch = make_batch(model, data, [rows[j] for j in picks])
            h, mask = adapted(model, batch)
            wide = model.wide([data.token_ids[rows[j]] for j in picks]).to(h.device)
            alone = model.classify(h, mask, batch.memory.closed())[0] + wide
            logits = alone
            if not closed_only:
                logits = model.classify(h, mask, batch.memory)[0] + wide
            query = mean_pool(h, mask)
            match, similarity = model.mixture.match(query, batch.base, batch.memory)
            parts.append(
                Evidence(
                    logits.float().cpu(),
                    match.float().cpu(),
                    similarity.float().cpu(),
                    batch.memory.to(torch.device("cpu")),
                    batch.truth.cpu(),
                    kernel.expand(len(picks), 2),
                )
            )
            closed.append(alone.float().cpu())
            order += picks
    back = torch.tensor(order).argsort()
    return join(parts).rows(back), torch.cat(closed)[back]
