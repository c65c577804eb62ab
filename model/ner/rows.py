"""What named entities are trained on, and how: plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from model.ner.evidence import Entities, TagHit


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
