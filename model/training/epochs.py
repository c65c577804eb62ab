"""The loop by which heads for answers and for entities are trained: resumable after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.training.batches import epoch_batches
from model.training.curves import Curve
from model.training.trainer import (
    OptimizerSettings,
    Ticker,
    load_state,
    make_optimizer,
    rate_at,
    save_state,
)

Losses = Callable[[Sequence[int]], tuple[Tensor, int]]
"""The loss of some rows, and how many tokens were read for it."""


class EpochSettings(OptimizerSettings, Protocol):
    """What the loop reads of a run's configuration."""

    @property
    def epochs(self) -> int | None:
        """How many; None counts as one."""

    @property
    def batch_size(self) -> int | None:
        """Rows of a step; None counts as 16."""

    @property
    def seed(self) -> int:
        """What an epoch draws follows from it and from the epoch's number alone."""

    @property
    def warmup(self) -> float:
        """Share of the steps."""

    @property
    def max_grad_norm(self) -> float:
        """Longer gradients are cut to it."""


def run_epochs(
    model: nn.Module,
    config: EpochSettings,
    lengths: Sequence[int],
    losses: Callable[[int, torch.Generator], Losses],
    folder: Path,
    ticker: Ticker,
) -> dict[str, Any]:
    """Train on rows of these lengths; the state in `folder` is gone on from.

    `losses` is asked once an epoch, with the epoch and what is to be drawn from.

    Raises:
        TrainingCancelled: The ticker's caller asked for it.
    """
    epochs, size = int(config.epochs or 1), int(config.batch_size or 16)
    per_epoch = -(-len(lengths) // size)
    optimizer = make_optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    state: dict[str, Any] = load_state(folder, model, optimizer) or {
        "epoch": 0, "tokens": 0, "seconds": 0.0, "losses": [],
    }  # fmt: skip
    ticker.skip(state["epoch"] * per_epoch)
    with Curve(folder, start=state["epoch"] * per_epoch - 1) as curve:
        while state["epoch"] < epochs:
            epoch, began = state["epoch"], time.monotonic()
            torch.manual_seed(config.seed * 1009 + epoch)
            generator = torch.Generator().manual_seed(config.seed * 7919 + epoch)
            loss_of = losses(epoch, generator)
            model.train()
            seen: list[float] = []
            for i, part in enumerate(epoch_batches(lengths, size, generator)):
                step = epoch * per_epoch + i
                factor = rate_at(step, epochs * per_epoch, config.warmup)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                loss, tokens = loss_of(part)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                seen.append(float(loss.detach()))
                state["tokens"] += tokens
                curve.add(step, loss=seen[-1], lr=rates[0] * factor)
                ticker.tick(seen[-1])
            state["seconds"] += time.monotonic() - began
            state["losses"].append(sum(seen) / len(seen))
            state["epoch"] += 1
            save_state(folder, model, optimizer, state)
    model.eval()
    return state
