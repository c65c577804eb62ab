"""Pre-training: rows of chunks with what was retrieved for them, cross-entropy, one step a batch.

What a step draws follows from the seed and the step's number alone, and the state is saved every
few steps: a run that was cut off goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.config import bf16_products
from model.lm.config import PAD, LMConfig, PretrainConfig
from model.lm.corpus import LMCorpus, Numbers
from model.lm.evaluation import spread, total_nats
from model.lm.network import RetrievalLM
from model.training.curves import curve
from model.training.trainer import Ticker, load_state, make_optimizer, rate_at, save_state
from model.training.workspace import TrainingRefused


def steps_of(config: LMConfig, run: PretrainConfig) -> int:
    """How many steps a run has."""
    return max(1, run.tokens // (rows_of(config, run) * config.window))


def rows_of(config: LMConfig, run: PretrainConfig) -> int:
    """Rows a step."""
    return max(1, run.batch_tokens // config.window)


def fingerprint(config: LMConfig, run: PretrainConfig, corpus_sha256: str) -> str:
    """SHA-256 of what a run is: its shape, its settings and its text."""
    raw = json.dumps([asdict(config), asdict(run), corpus_sha256], sort_keys=True)
    return hashlib.sha256(raw.encode()).hexdigest()


def pretrain(
    model: RetrievalLM,
    corpus: LMCorpus,
    run: PretrainConfig,
    folder: Path,
    ticker: Ticker,
    byte_lengths: Numbers,
) -> dict[str, Any]:
    """Train until the run's steps are done; the state in `folder` is gone on from.

    `byte_lengths` [vocab]: how many bytes of text each token stands for. Returns the run's
    progress: step, tokens, seconds of processor and clock, newest figures of held-out text.

    Raises:
        TrainingRefused: There is no text to learn from, or the loss is no number any more.
        TrainingCancelled: By the ticker's caller.
    """
    config, total = model.config, steps_of(model.config, run)
    rows = Rows(corpus, config, rows_of(config, run), run.seed)
    held = spread(corpus.chunks_of("dev"), run.evaluate_chunks)
    optimizer = make_optimizer(model, run.optimizer, run.lr, run.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    state: dict[str, Any] = load_state(folder, model, optimizer) or {
        "step": 0, "tokens": 0, "cpu_seconds": 0.0, "seconds": 0.0, "held_out": {},
    }  # fmt: skip
    ticker.skip(state["step"])
    with curve(folder, start=state["step"] - 1) as record:
        clock = _Clock()
        while state["step"] < total:
            step = state["step"]
            factor = rate_at(step, total, run.warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            model.train()
            loss, tokens = train_step(model, rows.of_step(step), corpus, run, step, optimizer)
            state["step"] += 1
            state["tokens"] += tokens
            record(step, loss=loss, lr=rates[0] * factor)
            if len(held) and (state["step"] % run.evaluate_every == 0 or state["step"] == total):
                state["held_out"] = _held_out(model, corpus, held, byte_lengths)
                record(step, **state["held_out"])
            ticker.tick(loss)
            if state["step"] % run.save_every == 0 or state["step"] == total:
                clock.add_to(state)
                save_state(folder, model, optimizer, state)
    model.eval()
    return state


def train_step(
    model: RetrievalLM,
    rows: Numbers,
    corpus: LMCorpus,
    run: PretrainConfig,
    step: int,
    optimizer: torch.optim.Optimizer,
) -> tuple[float, int]:
    """One step over some rows [b, n]: the mean loss in nats, and how many tokens it is of."""
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
    batch = corpus.batch(rows, model.config)
    closed_book = torch.rand(len(rows), generator=generator) < run.drop_retrieval
    batch.places[closed_book] = -1
    batch = batch.to(device)
    tokens = int((batch.targets != PAD).sum())
    with bf16_products(device):
        loss = -model(batch).sum() / max(tokens, 1)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), run.max_grad_norm)
    optimizer.step()
    return float(loss.detach()), tokens


def _held_out(
    model: RetrievalLM, corpus: LMCorpus, held: Numbers, byte_lengths: Numbers
) -> dict[str, float]:
    """Bits per byte of held-out chunks, with what was retrieved and without."""
    size = int(byte_lengths[corpus.tokens[held]].sum()) * float(np.log(2))
    return {
        f"held_out_{condition}": total_nats(model, corpus, held, closed_book=closed_book) / size
        for condition, closed_book in (("on", False), ("off", True))
        if model.config.k or closed_book
    }


class Rows:
    """The rows of each step: all training chunks in another order and another cut every epoch."""

    def __init__(self, corpus: LMCorpus, config: LMConfig, size: int, seed: int) -> None:
        self.chunks = corpus.chunks_of("train")
        self.n, self.size, self.seed = config.chunks, size, seed
        if not len(self.chunks):
            raise TrainingRefused("there is no text to train on")
        count = -(-(len(self.chunks) + self.n - 1) // self.n)
        self.per_epoch = -(-count // size)
        self._epoch, self._rows = -1, np.zeros((0, self.n), dtype=np.int64)

    def of_step(self, step: int) -> Numbers:
        """The rows [b, n] of a step, -1: an empty chunk."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._shuffled(epoch)
        return self._rows[place * self.size : (place + 1) * self.size]

    def _shuffled(self, epoch: int) -> Numbers:
        random = np.random.default_rng([self.seed, epoch])
        lead = int(random.integers(self.n))  # where rows begin
        count = -(-(lead + len(self.chunks)) // self.n)
        whole = np.full(self.per_epoch * self.size * self.n, -1, dtype=np.int64)
        whole[lead : lead + len(self.chunks)] = self.chunks
        rows: Numbers = whole.reshape(-1, self.n)
        order = random.permutation(count)
        return np.concatenate([rows[:count][order], rows[count:]])


class _Clock:
    """Seconds since the last call, of the clock and of this process's processor."""

    def __init__(self) -> None:
        self.clock, self.cpu = time.monotonic(), time.process_time()

    def add_to(self, state: dict[str, Any]) -> None:
        clock, cpu = time.monotonic(), time.process_time()
        state["seconds"] += clock - self.clock
        state["cpu_seconds"] += cpu - self.cpu
        self.clock, self.cpu = clock, cpu
