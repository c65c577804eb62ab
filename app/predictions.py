"""The last predictions, kept in memory for feedback and for looking them up."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.ablation import Closed
from app.problems import Problem

KEPT = 10_000
WORTH_PACKING = 2_048  # bytes


@dataclass(frozen=True, slots=True)
class Said:
    """What was answered to one input."""

    text: str
    label: str | None
    confidence: float | None
    closed: Closed | None = None  # the answer with retrieval off, where it was given too


@dataclass(frozen=True, slots=True)
class Kept:
    """One prediction: what was asked, and the answer as it was sent."""

    field: str
    said: tuple[Said | None, ...]  # None: that input was bad
    body: bytes
    packed: bool

    def answer(self) -> Any:
        """The answer's JSON."""
        return orjson.loads(zlib.decompress(self.body) if self.packed else self.body)


class Predictions:
    """The last :data:`KEPT` predictions. Safe to use from several threads."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, name: str, *, field: str, said: Sequence[Said | None], body: bytes) -> None:
        """Keep one; the oldest goes when there are too many."""
        pack = len(body) > WORTH_PACKING  # ten thousand answers with their citations are 100 MB
        kept = Kept(field, tuple(said), zlib.compress(body, 1) if pack else body, pack)
        with self._lock:
            self._kept[name] = kept
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)

    def get(self, name: str) -> Kept:
        """One prediction. Raises ``not-found``."""
        kept = self._kept.get(name)
        if kept is None:
            raise Problem("not-found", "No prediction with this id is kept.")
        return kept

    def last(self) -> str | None:
        """The id of the newest, if any."""
        with self._lock:
            return next(reversed(self._kept), None)
