"""How well a language model foretells given chunks: nats of every token, in a sliding window."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import bf16_products
from model.lm.corpus import LMCorpus, Numbers
from model.lm.network import RetrievalLM

ROWS = 8
"""Rows of 4 chunks that are read at once; longer rows are read in fewer."""
RUN = 8


def evaluation_rows(
    corpus: LMCorpus, chunks: Numbers, n: int
) -> tuple[Numbers, NDArray[np.bool_], Numbers]:
    """Rows [r, n] that score each of `chunks` once, which of theirs [r, n] it is, and which chunk.

    Runs of chunks are scored half a window at a time, so what is scored sees at least half a
    window before it, where the document has it. The third array maps scored places, in order, to
    positions in `chunks`.
    """
    half = max(1, n // 2)
    first = {i: d.first for i, d in enumerate(corpus.documents)}
    rows, scored, places = [], [], []
    at = 0
    while at < len(chunks):
        whose = int(corpus.document[chunks[at]])
        size = 1
        while (
            size < half
            and at + size < len(chunks)
            and chunks[at + size] == chunks[at] + size
            and corpus.document[chunks[at + size]] == whose
        ):
            size += 1
        end = int(chunks[at]) + size
        begin = max(first[whose], end - n)
        row = np.full(n, -1, dtype=np.int64)
        row[: end - begin] = np.arange(begin, end)
        mark = np.zeros(n, dtype=np.bool_)
        mark[end - begin - size : end - begin] = True
        rows.append(row)
        scored.append(mark)
        places.append(np.arange(at, at + size))
        at += size
    if not rows:
        nothing = np.zeros((0, n), dtype=np.int64)
        return nothing, nothing.astype(np.bool_), np.zeros(0, dtype=np.int64)
    return np.stack(rows), np.stack(scored), np.concatenate(places)


def token_nats(
    model: RetrievalLM,
    corpus: LMCorpus,
    chunks: Numbers,
    *,
    closed_book: bool = False,
    neighbours: Numbers | None = None,
) -> NDArray[np.float32]:
    """Minus log-probability of each token of some chunks [m, c], in nats; 0 for the padding.

    `closed_book`: nothing is retrieved. `neighbours` [N, k] stand in for the corpus's own.
    """
    config, device = model.config, model.embedding.weight.device
    rows, scored, places = evaluation_rows(corpus, chunks, config.chunks)
    hits = corpus.neighbours if neighbours is None else neighbours
    out = np.zeros((len(chunks), corpus.chunk), dtype=np.float32)
    size = max(1, ROWS * 4 // config.chunks)
    training, done = model.training, 0
    model.eval()
    with torch.inference_mode(), bf16_products(device):
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            given = np.where((part >= 0)[..., None], hits[np.maximum(part, 0)], -1)
            batch = corpus.batch(part, config, given.astype(np.int64))
            if closed_book:
                batch.places[:] = -1
            nats = -model(batch.to(device)).float().cpu().numpy()[scored[start : start + size]]
            out[places[done : done + len(nats)]] = nats
            done += len(nats)
    model.train(training)
    return out


def total_nats(
    model: RetrievalLM, corpus: LMCorpus, chunks: Numbers, *, closed_book: bool = False
) -> float:
    """The sum of `token_nats`."""
    return float(token_nats(model, corpus, chunks, closed_book=closed_book).sum(dtype=np.float64))


def spread(chunks: Numbers, most: int) -> Numbers:
    """At most so many of some chunks, in runs of `RUN`, spread evenly over all of them."""
    if len(chunks) <= most:
        return chunks
    count = max(1, most // RUN)
    starts = np.linspace(0, len(chunks) - RUN, count).astype(np.int64)
    picks: list[Numbers] = [np.arange(start, start + RUN) for start in starts]
    return chunks[np.unique(np.concatenate(picks))]
