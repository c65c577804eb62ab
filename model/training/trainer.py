"""The training loop: prepared rows in, a trained network out, resumable at every epoch.

The states below the adapted layers never change, so they are computed once and kept in half
precision: an epoch then costs a forward and a backward pass through the top layers only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import TrainConfig, bf16_products
from model.encoder.encoder import mean_pool
from model.labels.multilabel import best_threshold, binary_loss, multilabel_loss, start_multilabel
from model.labels.neighbours import SMALL
from model.labels.network import RetrievalAugmentedModel
from model.training.batches import Batch, Prepared, adapted, epoch_batches, evidence_of, make_batch
from model.training.curves import Curve
from model.training.workspace import TrainingRefused

STATE = "state.safetensors"
Progress = Callable[[int, int, float | None, float | None], None]
"""(step, total, loss, seconds left)."""


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


def loss_of(
    model: RetrievalAugmentedModel, batch: Batch, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Head + neighbours + closed book for some rows, pulled towards the open one (symmetric KL)."""
    h, mask = adapted(model, batch)
    memory = batch.memory if config.retrieval else batch.memory.closed()
    logits, _, _ = model.classify(h, mask, memory)
    smoothing = config.label_smoothing
    loss = F.cross_entropy(logits, batch.truth, label_smoothing=smoothing)
    if not config.retrieval:
        return loss
    query = mean_pool(h, mask)
    vote = model.mixture(query, batch.base, memory, len(model.config.labels))
    chance = vote.probs.gather(1, batch.truth[:, None]).squeeze(1)
    there = chance > SMALL  # rows whose label no hit carries teach the weights nothing
    if bool(there.any()):
        loss = loss - config.neighbour_loss * chance[there].log().sum() / len(chance)
    closed = torch.rand(len(logits), generator=generator) < config.drop_retrieval
    keep = closed.nonzero().squeeze(1)
    if len(keep):
        alone, _, _ = model.classify(h[keep], mask[keep], memory.rows(keep).closed())
        share = len(keep) / len(logits)
        loss = loss + share * F.cross_entropy(alone, batch.truth[keep], label_smoothing=smoothing)
        p, q = alone.log_softmax(-1), logits[keep].log_softmax(-1)
        pull = F.kl_div(p, q, log_target=True, reduction="batchmean")
        pull = pull + F.kl_div(q, p, log_target=True, reduction="batchmean")
        loss = loss + config.consistency * share * pull / 2
    return loss


class OptimizerSettings(Protocol):
    """What the configuration of every training run has."""

    @property
    def optimizer(self) -> Literal["adamw", "sgd"]:
        """Which one."""

    @property
    def lr(self) -> float | None:
        """The highest learning rate."""

    @property
    def weight_decay(self) -> float:
        """On matrices."""


def make_optimizer(model: nn.Module, config: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW (fused) or SGD with momentum; no decay on vectors and scalars; the gate is left out."""
    named = [
        (n, p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith("gate.")
    ]
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr = config.lr or 1e-3
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def rate_at(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    rise = max(1, int(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, total - rise))))


@dataclass(slots=True)
class Fitted:
    """What came of one stage."""

    epochs: int
    best_epoch: int
    held_out_loss: float | None
    tokens: int
    seconds: float


class Stage:
    """One network trained from start to end, with its state on disk after every epoch."""

    def __init__(self, name: str, folder: Path, model: RetrievalAugmentedModel) -> None:
        self.name, self.folder, self.model = name, folder, model
        self.seed = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)

    def start_head(self, data: Prepared, rows: Sequence[int]) -> None:
        """Start the head at the class means of the base vectors, around their common mean."""
        vectors, truth = data.base[list(rows)], data.truth[list(rows)]
        if self.model.config.multilabel:
            start_multilabel(self.model, vectors, truth)
            return
        middle = vectors.mean(0)
        with torch.no_grad():
            for label in range(len(self.model.config.labels)):
                mine = vectors[truth == label]
                if len(mine):
                    self.model.head.weight[label] = (mine.mean(0) - middle).to(
                        self.model.head.weight
                    )
            self.model.head.bias.zero_()

    def fit(
        self,
        data: Prepared,
        train: Sequence[int],
        held: Sequence[int],
        config: TrainConfig,
        ticker: Ticker,
    ) -> Fitted:
        """Train on `train`, stop early on `held` (if any), leave the best weights in the model.

        The random state of an epoch follows from seed, stage and epoch, so a run that resumes
        after any epoch is the run that was not interrupted.
        """
        epochs, size = int(config.epochs or 1), int(config.batch_size or 32)
        per_epoch = -(-len(train) // size)
        optimizer = make_optimizer(self.model, config)
        rates = [group["lr"] for group in optimizer.param_groups]
        state = self._resume(optimizer) or {
            "epoch": 0, "best": None, "best_epoch": 0, "tokens": 0, "seconds": 0.0, "done": False,
        }  # fmt: skip
        ticker.skip(state["epoch"] * per_epoch)
        lengths = [len(data.token_ids[i]) for i in train]
        with Curve(self.folder, start=state["epoch"] * per_epoch - 1) as curve:
            while not state["done"]:
                epoch, began = state["epoch"], time.monotonic()
                torch.manual_seed((config.seed * 1009 + self.seed + epoch) % 2**31)
                generator = torch.Generator().manual_seed(config.seed * 7919 + self.seed + epoch)
                self.model.train()
                losses: list[float] = []
                for i, part in enumerate(epoch_batches(lengths, size, generator)):
                    step = epoch * per_epoch + i
                    factor = rate_at(step, epochs * per_epoch, config.warmup)
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * factor
                    rows = [train[j] for j in part]
                    loss = self._step(data, rows, config, optimizer, generator)
                    losses.append(loss)
                    curve.add(step, loss=loss, lr=rates[0] * factor)
                    ticker.tick(loss)
                state["tokens"] += sum(lengths)
                state["seconds"] += time.monotonic() - began
                state["epoch"] += 1
                self._judge(state, data, held, config, epochs)
                point = {"train_loss": float(np.mean(losses)), "epoch": float(state["epoch"])}
                if held:
                    point["held_out_loss"] = state["last"]
                curve.add(state["epoch"] * per_epoch - 1, **point)
                self._save(optimizer, state)
        ticker.skip((epochs - state["epoch"]) * per_epoch)
        best = self.folder / "best.safetensors"
        if best.exists():
            self.model.load_state_dict(load_file(best))
        self.model.eval()
        return Fitted(
            state["epoch"], state["best_epoch"], state["best"], state["tokens"], state["seconds"]
        )

    def _step(
        self,
        data: Prepared,
        rows: Sequence[int],
        config: TrainConfig,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> float:
        batch = make_batch(self.model, data, rows)
        objective = multilabel_loss if self.model.config.multilabel else loss_of
        with bf16_products(self.model.encoder.device):
            loss = objective(self.model, batch, config, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        optimizer.step()
        return float(loss.detach())

    def _judge(
        self,
        state: dict[str, Any],
        data: Prepared,
        held: Sequence[int],
        config: TrainConfig,
        epochs: int,
    ) -> None:
        """Decide whether this epoch is the best so far, and whether it was the last."""
        state["done"] = state["epoch"] >= epochs
        if not held:
            state["best_epoch"] = state["epoch"]
            return
        evidence, _ = evidence_of(self.model, data, held, closed_only=not config.retrieval)
        # Confidence keeps rising after accuracy has settled; errors are what counts.
        if self.model.config.multilabel:
            probs = torch.sigmoid(evidence.logits)
            state["last"] = float(binary_loss(probs, evidence.truth).sum(-1).mean())
            wrong = 1 - best_threshold(probs, evidence.truth)[1]
        else:
            state["last"] = float(F.cross_entropy(evidence.logits, evidence.truth))
            wrong = float((evidence.logits.argmax(-1) != evidence.truth).float().mean())
        judged = wrong + 0.05 * state["last"]
        if state["best"] is None or judged < state["best"]:
            state["best"], state["best_epoch"] = judged, state["epoch"]
            _save_tensors(self.model.state_dict(), self.folder / "best.safetensors")
        elif state["epoch"] - state["best_epoch"] >= config.patience:
            state["done"] = True

    def _save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        save_state(self.folder, self.model, optimizer, state)

    def _resume(self, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        return load_state(self.folder, self.model, optimizer)


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Weights, optimizer and progress of a run, in one file, so that they are of one epoch."""
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
    _save_tensors(tensors, folder / STATE, note=json.dumps(state))


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
    state: dict[str, Any] = json.loads(_note(path))
    return state


def _save_tensors(tensors: dict[str, Tensor], path: Path, note: str = "{}") -> None:
    aside = path.with_suffix(".writing")
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, aside, metadata={"note": note})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.rename(path)


def _note(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata["note"]
