"""Which rows of a training set are trained on, and which are held out."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from model.config import TrainConfig
from model.labels.memory import Retrieved

MAX_HELD_OUT = 500
TOO_FEW = "too few rows to hold any out: figures are those of training rows"


@dataclass(frozen=True, slots=True)
class Row:
    """A training example with its hits, best first. Independent labels are a list."""

    id: str
    text: str
    label: str | list[str] | None
    hits: list[Retrieved] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)  # the hits' documents, where they are known

    @property
    def names(self) -> list[str]:
        """Its labels, each once."""
        return [*dict.fromkeys(self.label)] if isinstance(self.label, list) else [str(self.label)]


@dataclass(slots=True)
class Split:
    """Which rows, by number, are trained on and which are held out.

    `rows`: how many can be learned from. `instead`: what figures are of where none are held out.
    """

    train: list[int]
    held: list[int]
    warnings: list[str]
    rows: int
    instead: str


def plan_rows(rows: Sequence[Row], config: TrainConfig) -> Split:
    """Hold out by hash of the normalised text, so that equal texts fall together.

    A label's last example is never held out: what has one example can be learned, not measured.
    """
    order = sorted(range(len(rows)), key=lambda i: (bucket(rows[i].text), i))
    limit = min(int(len(rows) * config.holdout), MAX_HELD_OUT)
    counts = Counter(name for row in rows for name in row.names)
    left = counts.copy()
    held: list[int] = []
    for i in order:
        names = rows[i].names
        if bucket(rows[i].text) >= config.holdout or len(held) >= limit:
            break
        if all(left[name] > 1 for name in names):
            left.subtract(names)
            held.append(i)
    apart = set(held)
    single = sorted(label for label, n in counts.items() if n == 1)
    warnings = []
    if single:
        named = ", ".join(single[:5]) + ("..." if len(single) > 5 else "")
        warnings.append(f"{len(single)} labels have one example, which cannot be checked: {named}")
    if not held and config.holdout > 0:
        warnings.append("too few rows to hold any out: figures are out-of-fold")
    train = [i for i in range(len(rows)) if i not in apart]
    return Split(train, held, warnings, len(rows), "out-of-fold")


def make_folds(train_rows: Sequence[int], folds: int) -> list[list[int]]:
    """Rows dealt to folds in turn; fewer than two folds: none."""
    folds = min(folds, len(train_rows))
    return [list(train_rows[i::folds]) for i in range(folds)] if folds > 1 else []


def bucket(text: str) -> float:
    """0 to 1, the same for texts that are equal after NFKC, case folding and white space."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    digest = hashlib.sha256(plain.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
