"""The training loop of every head: resumed after any epoch, cancelled at any step.

What an epoch draws follows from the seed and the epoch's number alone, so that a run which is
resumed is the run that was not interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import RunSettings
from model.training.curves import curve
from model.training.workspace import TrainingRefused

STATE = "state.safetensors"
Progress = Callable[[int, int, float | None, float | None], None]
"""(step, total, loss, seconds left)."""
AfterEpoch = Callable[["LoopState", Sequence[float]], Mapping[str, float]]
"""Sees the losses of an epoch's steps; may end the training. What it gives goes on the curve."""


class Draws(NamedTuple):
    """An epoch, and what is drawn from in it."""

    epoch: int
    generator: torch.Generator
    chance: random.Random


LossOf = Callable[[Sequence[int], Draws], tuple[Tensor, int]]
"""The loss of some rows, and how many tokens were read for it."""


class TrainingCancelled(RuntimeError):
    """The caller asked for the end; the saved state allows resuming."""


@dataclass(slots=True)
class Ticker:
    """Counts steps over all stages, tells the caller, and hears that it should stop."""

    total: int
    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None
    step: int = 0
    _began: float = field(default_factory=time.monotonic)
    _skipped: int = 0

    def skip(self, steps: int) -> None:
        """Steps that an earlier run did, or that early stopping saved."""
        self.step += steps
        self._skipped += steps

    def tick(self, loss: float | None) -> None:
        """One step is done.

        Raises:
            TrainingCancelled: The caller asked for it.
            TrainingRefused: The loss is no number any more.
        """
        self.step += 1
        if loss is not None and not math.isfinite(loss):
            raise TrainingRefused(
                f"the loss became {loss} at step {self.step} of {self.total}: take a lower lr"
            )
        if self.cancelled is not None and self.cancelled():
            raise TrainingCancelled(f"cancelled at step {self.step} of {self.total}")
        if self.progress is not None:
            done = self.step - self._skipped
            rate = (time.monotonic() - self._began) / max(done, 1)
            left = max(0.0, rate * (self.total - self.step))
            self.progress(min(self.step, self.total), self.total, loss, left)


def make_optimizer(
    model: nn.Module, kind: Literal["adamw", "sgd"], lr: float | None, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW (fused) or SGD with momentum; no decay on vectors and scalars; the gate is left out."""
    named = [
        (n, p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith("gate.")
    ]
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr = lr or 1e-3
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def rate_at(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    rise = max(1, int(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, total - rise))))


@dataclass(slots=True)
class LoopState:
    """How far the training of a network is; written beside its weights after every epoch."""

    epoch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    done: bool = False
    best: float | None = None  # of what an `AfterEpoch` judges by
    best_epoch: int = 0


def run_epochs(
    model: nn.Module,
    config: RunSettings,
    lengths: Sequence[int],
    loss_of: LossOf,
    folder: Path,
    ticker: Ticker,
    *,
    stage: str | None = None,
    after_epoch: AfterEpoch | None = None,
) -> LoopState:
    """Train on rows of these lengths in tokens, from the state in `folder` on where there is one.

    `stage`: a name that changes what is drawn.

    Raises:
        TrainingCancelled: The ticker's caller asked for it.
        TrainingRefused: A loss is no number.
    """
    epochs, size = config.epochs or 1, config.batch_size or 16
    per_epoch = -(-len(lengths) // size)
    optimizer = make_optimizer(model, config.optimizer, config.lr, config.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    known = {one.name for one in fields(LoopState)}
    saved = load_state(folder, model, optimizer) or {}
    state = LoopState(**{name: value for name, value in saved.items() if name in known})
    ticker.skip(state.epoch * per_epoch)
    with curve(folder, start=state.epoch * per_epoch - 1) as record:
        while state.epoch < epochs and not state.done:
            began = time.monotonic()
            for_all, for_rows = epoch_seeds(config.seed, state.epoch, stage)
            torch.manual_seed(for_all)
            generator = torch.Generator().manual_seed(for_rows)
            draws = Draws(state.epoch, generator, random.Random(for_rows))
            model.train()
            seen: list[float] = []
            for i, part in enumerate(epoch_batches(lengths, size, generator)):
                step = state.epoch * per_epoch + i
                factor = rate_at(step, epochs * per_epoch, config.warmup)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                loss, tokens = loss_of(part, draws)
                take_step(model, optimizer, loss, config.max_grad_norm)
                seen.append(float(loss.detach()))
                state.tokens += tokens
                record(step, loss=seen[-1], lr=rates[0] * factor)
                ticker.tick(seen[-1])
            state.seconds += time.monotonic() - began
            state.epoch += 1
            if after_epoch is not None:
                record(state.epoch * per_epoch - 1, **after_epoch(state, seen))
            save_state(folder, model, optimizer, asdict(state))
    ticker.skip((epochs - state.epoch) * per_epoch)
    model.eval()
    return state


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float
) -> None:
    """One update of the weights."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()


def epoch_seeds(seed: int, epoch: int, stage: str | None) -> tuple[int, int]:
    """The seeds of an epoch: of everything that is drawn, and of the order of its rows."""
    if stage is None:
        return seed * 1009 + epoch, seed * 7919 + epoch
    own = int(hashlib.sha256(stage.encode()).hexdigest()[:6], 16)
    return (seed * 1009 + own + epoch) % 2**31, seed * 7919 + own + epoch


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


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Weights, optimizer and progress of a run, in one file, so that they are of one epoch."""
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
    save_tensors(tensors, folder / STATE, note=json.dumps(state))


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put back what `save_state` wrote; its progress, or None where nothing was written."""
    path = folder / STATE
    if not path.exists():
        return None
    tensors = load_file(path)
    model.load_state_dict(
        {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    )
    saved: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            saved.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved})
    with safe_open(path, framework="pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["note"])
    return state


def save_tensors(tensors: Mapping[str, Tensor], path: Path, note: str = "{}") -> None:
    """Write a file that is there whole or not at all."""
    aside = path.with_suffix(".writing")
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, aside, metadata={"note": note})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.rename(path)
