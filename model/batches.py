"""Rows as numbers: prepared once, padded into batches, read by a network for the gate's fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.calibration import Evidence, join
from model.config import TrainConfig
from model.encoder import Encoder, batches_by_length, mean_pool
from model.network import Memory, RetrievalAugmentedModel, Retrieved, make_memory

CACHE_BYTES = 2 << 30
"""States of the lower layers are kept up to this size; beyond it they are computed each time."""
ENCODE_TOKENS = 4096


@dataclass(slots=True)
class Prepared:
    """Rows as numbers. `lower` is None where the states are too many to keep."""

    token_ids: list[list[int]]
    truth: Tensor  # [n]
    hits: list[list[Retrieved]]
    base: Tensor  # [n, d]
    lower: list[Tensor] | None  # n times [t, d], half precision


@dataclass(slots=True)
class Batch:
    """Some rows, padded."""

    lower: Tensor  # [b, t, d]
    mask: Tensor  # [b, t]
    base: Tensor  # [b, d]
    memory: Memory
    truth: Tensor  # [b]


def prepare(
    encoder: Encoder,
    texts: Sequence[str],
    truth: Sequence[int],
    hits: Sequence[Sequence[Retrieved]],
    config: TrainConfig,
) -> Prepared:
    """Tokenise, and run the frozen encoder once over every row."""
    token_ids = encoder.tokenize(texts, max_tokens=config.max_tokens)
    depth = encoder.depth
    split = depth - config.layers
    size = sum(len(row) for row in token_ids) * encoder.dim * 2
    keep: list[Tensor] | None = [torch.empty(0)] * len(token_ids) if size <= CACHE_BYTES else None
    base = torch.empty(len(token_ids), encoder.dim)
    for rows in batches_by_length([len(row) for row in token_ids], budget=ENCODE_TOKENS):
        ids, mask = encoder.pad([token_ids[i] for i in rows])
        with torch.no_grad():
            lower = encoder.layers(encoder.embed(ids, mask), mask, 0, split)
            base[rows] = encoder.pool(encoder.layers(lower, mask, split, depth), mask).float().cpu()
        if keep is not None:
            for i, states in zip(rows, lower, strict=True):
                keep[i] = states[: len(token_ids[i])].to(torch.float16).clone()
    return Prepared(
        token_ids, torch.tensor(truth, dtype=torch.long), [list(h) for h in hits], base, keep
    )


def make_batch(model: RetrievalAugmentedModel, data: Prepared, rows: Sequence[int]) -> Batch:
    """Pad some rows."""
    encoder, config = model.encoder, model.config
    ids, mask = encoder.pad([data.token_ids[i] for i in rows])
    if data.lower is None:
        lower = encoder.lower(ids, mask, config.layers)
    else:
        lower = torch.zeros(*ids.shape, encoder.dim, dtype=encoder.dtype, device=encoder.device)
        for out, i in zip(lower, rows, strict=True):
            out[: len(data.lower[i])] = data.lower[i].to(encoder.device, encoder.dtype)
    # All hits that came along: how many of them count is fitted afterwards.
    widest = max((len(data.hits[i]) for i in rows), default=0)
    memory = make_memory([data.hits[i] for i in rows], config.labels, encoder.dim, widest)
    memory = Memory(*(part.to(encoder.device) for part in memory))
    base = data.base[list(rows)].to(encoder.device)
    return Batch(lower, mask, base, memory, data.truth[list(rows)].to(encoder.device))


def epoch_batches(lengths: Sequence[int], size: int, generator: torch.Generator) -> list[list[int]]:
    """A shuffled epoch in batches of similar length: hardly any padding."""
    order: list[int] = torch.randperm(len(lengths), generator=generator).tolist()
    pool = size * 50
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda i: lengths[i])
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    picks: list[int] = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[i] for i in picks]


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
            h = model.adapted(batch.lower, batch.mask)
            alone, _, _ = model.classify(h, batch.mask, batch.memory.closed())
            logits = alone
            if not closed_only:
                logits, _, _ = model.classify(h, batch.mask, batch.memory)
            query = mean_pool(h, batch.mask)
            match, similarity = model.mixture.match(query, batch.base, batch.memory)
            memory = Memory(*(part.cpu() for part in batch.memory))
            parts.append(
                Evidence(
                    logits.float().cpu(),
                    match.float().cpu(),
                    similarity.float().cpu(),
                    memory,
                    batch.truth.cpu(),
                    kernel.expand(len(picks), 2),
                )
            )
            closed.append(alone.float().cpu())
            order += picks
    back = torch.tensor(order).argsort()
    return join(parts).rows(back), torch.cat(closed)[back]
