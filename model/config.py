"""What a head and a training run are made of, as plain data that goes into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import torch

MAX_TOKENS = 256
"""Longest input of a head, in tokens; what is longer is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """What every kind of head is built from: everything that its tensors' shapes follow from."""

    field: str  # its name in the checkpoint: for labels, the field that it predicts
    task: str  # says of which kind it is
    encoder_sha256: str  # of the encoder that it was trained over
    dim: int = 384  # the encoder's width
    layers: int = 3  # how many of the encoder's top layers carry an adapter
    rank: int = 16
    k: int = 48  # hits that it reads
    dropout: float = 0.1

    def to_json(self) -> dict[str, Any]:
        """Plain data; the inverse of `from_json`."""
        raw = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in raw.items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`.

        Raises:
            TypeError: A field is unknown or missing.
            ValueError: The values do not fit together.
        """
        plain: Mapping[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in raw.items()
        }
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(HeadSettings):
    """A head of labels; its `k` hits are those that the neighbour mixture counts."""

    labels: tuple[str, ...]
    task: str = "classification"
    fusion_layers: int = 1
    fusion_dim: int = 192
    fusion_heads: int = 6
    fusion_k: int = 8  # hits that the fusion layers attend to
    multilabel: bool = False  # the labels are independent: a text has any number of them
    novel: int = 5  # features of the gate for new labels; heads trained from 0.1 on have 6
    ngrams: int = 0  # how many n-grams have weights of their own (`model.labels.ngrams`)

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"head {self.field!r}: a label stands twice")

    def to_json(self) -> dict[str, Any]:
        """Plain data; a head with one label is the file that it always was."""
        raw = HeadSettings.to_json(self)
        left_out = [name for name in ("multilabel", "ngrams") if not raw[name]]
        return {name: value for name, value in raw.items() if name not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One training run of any head. None says: choose by the number of rows (see `resolved`)."""

    field: str  # the head's name
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = None  # 1e-3 for AdamW, 0.05 for SGD
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    k: int = 48
    holdout: float = 0.1  # share of the rows, by hash of the normalised text; 0: none
    layers: int = 3
    rank: int = 16
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    dropout: float = 0.1
    max_grad_norm: float = 1.0
    max_tokens: int = MAX_TOKENS  # of one window
    retrieval: bool = True  # False: the baseline *none*, trained with the book closed

    def to_json(self) -> dict[str, Any]:
        """Plain data for manifest and report."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(RunSettings):
    """A training run of labels."""

    field: str = "label"
    task: str = "classification"
    folds: int | None = None  # out-of-fold predictions for the gate; None: 2 or 3 for small sets
    fusion_k: int = 8
    label_smoothing: float = 0.0
    drop_retrieval: float = 0.25  # share of the rows that are also seen with the book closed
    consistency: float = 0.5  # weight of the KL term that pulls both answers together
    neighbour_loss: float = 0.5
    patience: int = 3  # epochs without a better held-out loss before training stops
    windows: int = 1  # read of a text that is longer than one
    ngrams: bool = True  # a linear part over the text's n-grams beside the network

    def resolved(self, rows: int) -> TrainConfig:
        """Fill in what depends on the size of the training set (`rows` that are trained on)."""
        sizes = ((400, 12), (1500, 8), (8000, 6), (15000, 4))
        epochs = self.epochs or next((n for limit, n in sizes if rows < limit), 2)
        batch = self.batch_size or (8 if rows < 400 else 16 if rows < 1500 else 32)
        lr = self.lr or (1e-3 if self.optimizer == "adamw" else 0.05)
        folds = self.folds
        if folds is None:
            folds = 3 if rows < 400 else 2 if rows < 1500 else 1
        return replace(self, epochs=epochs, batch_size=batch, lr=lr, folds=folds)


def pick_device(name: str) -> str:
    """`cpu`, `cuda` or `cuda:N` as it stands; `auto` is a GPU where torch sees one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(name: str, device: str) -> torch.dtype:
    """The arithmetic for inference: `fp32`, `bf16`, or `auto` (bf16 where the hardware has it).

    Raises:
        ValueError: Another name.
    """
    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    if name != "auto":
        raise ValueError(f"dtype is auto, fp32 or bf16, not {name!r}")
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_bf16(Path("/proc/cpuinfo")) else torch.float32


def bf16_products(device: torch.device) -> torch.autocast:
    """Mixed precision for a training step: bf16 products where the hardware has them.

    Weights, sums and what is sensitive stay in single precision (Micikevicius et al. 2018).
    """
    has = pick_dtype("auto", str(device)) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=has)


@lru_cache(maxsize=1)
def _cpu_has_bf16(cpuinfo: Path) -> bool:
    """Whether the processor multiplies bf16 in hardware; emulation is slower than fp32."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags
