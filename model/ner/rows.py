"""What named entities are trained on, and how: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from model.config import RunSettings
from model.ner.evidence import Entities, TagHit


@dataclass(frozen=True, slots=True)
class TagRow:
    """A sentence with its entities (code points, in order, no overlap) and its labelled hits."""

    id: str
    text: str
    entities: Entities
    hits: list[TagHit] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagTrainConfig(RunSettings):
    """A training run of named entities."""

    field: str = "ner"
    layers: int = 4
    drop_retrieval: float = 0.3  # share of the rows that are seen with the book closed

    def resolved(self, rows: int) -> TagTrainConfig:
        """Fill in what depends on the size of the training set (`rows` that are trained on)."""
        sizes = ((400, 20), (1500, 12), (5000, 8), (10000, 6))
        epochs = self.epochs or next((n for limit, n in sizes if rows < limit), 4)
        batch = self.batch_size or (8 if rows < 1500 else 16)
        lr = self.lr or (1e-3 if self.optimizer == "adamw" else 0.05)
        return replace(self, epochs=epochs, batch_size=batch, lr=lr)
