"""A segment as one snapshot sees it: which passages are live, and who scores its postings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index_data.filters import Filter
from index_data.segment.scoring import CompiledScorer
from index_data.segment.segment import Segment
from index_data.segment.topk import NO_MASK, Mask, Ranked, intersection
from index_data.segment.whoosh_index import WhooshScorer, in_memory


class LexicalScorer(Protocol):
    """BM25 over one segment. `weights`: term -> idf times its count in the query."""

    def top(self, weights: Mapping[str, float], k: int, allowed: Mask = ...) -> Ranked:
        """The k best of the allowed passages."""
        ...

    def of(self, weights: Mapping[str, float], passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """The scores of these passages."""
        ...


ScorerOf = Callable[[Segment, float], LexicalScorer]
"""Makes the scorer of a segment, given the average length."""


def compiled(segment: Segment, average_length: float) -> LexicalScorer:
    """The compiled scorer; the average length is in the segment's parts already."""
    del average_length
    return CompiledScorer(segment.postings, segment.parts)


def whoosh_in_memory(segment: Segment, average_length: float) -> LexicalScorer:
    """Whoosh itself, over an index of the segment in memory."""
    postings = segment.postings
    return WhooshScorer(in_memory(postings), postings.lengths, average_length)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """`live` masks passages (empty: all live); `count` is the number of live documents."""

    segment: Segment
    live: Mask
    lexical: LexicalScorer
    count: int

    def allowed(self, filter: Filter | None) -> Mask:
        """The live passages whose documents pass the filter."""
        return intersection(self.live, self.segment.allowed(filter))

    def is_live(self, row: int) -> bool:
        """Whether the document with this number has not been replaced or deleted."""
        return not len(self.live) or bool(self.live[self.segment.offsets[row]])

    def find(self, name: str) -> int | None:
        """The number of the live document with this id."""
        row = self.segment.find(name)
        return row if row is not None and self.is_live(row) else None

    def live_rows(self) -> list[int]:
        """The numbers of the live documents."""
        rows = len(self.segment.documents)
        if not len(self.live):
            return list(range(rows))
        live: list[int] = np.flatnonzero(self.live[self.segment.offsets[:rows]]).tolist()
        return live

    def without(self, rows: list[int]) -> View:
        """The same view with these live documents dead."""
        live = np.array(self.live) if len(self.live) else np.ones(self.segment.size, np.uint8)
        for row in rows:
            live[self.segment.offsets[row] : self.segment.offsets[row + 1]] = 0
        live.flags.writeable = False
        return View(self.segment, live, self.lexical, self.count - len(rows))


def whole(segment: Segment, lexical: LexicalScorer) -> View:
    """A view of a segment in which everything is live."""
    return View(segment, NO_MASK, lexical, len(segment.documents))
