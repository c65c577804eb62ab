"""What was written since the generation: small segments in memory, merged as they grow in number.

Every change makes a new `State` out of the old, which goes on serving whoever holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.segment.postings import saturation
from index_data.segment.segment import Segment, merge_segments, segment_of
from index_data.segment.view import ScorerOf, View, whole
from index_data.text.analysis import STANDARD, Analyzer

STABLE_PASSAGES = 1_000
"""From this many passages on, the average length is not taken anew between generations."""
MERGED_PASSAGES = 16_384
"""Segments are not merged beyond this: a merge makes one write wait."""


@dataclass(frozen=True, slots=True)
class State:
    """The views of a generation (the first) and of what came after.

    `average_length` was taken of `basis` passages; `deleted` are the sequences of the tombstones
    since the generation, so that a write which arrives late cannot bring a document back.
    """

    views: tuple[View, ...]
    average_length: float
    basis: int
    sequence: int
    passage_words: int
    scorer: ScorerOf
    deleted: Mapping[str, int] = field(default_factory=dict)
    analyzer: Analyzer = STANDARD

    def apply(
        self,
        documents: Sequence[Document],
        tombstones: Mapping[str, int],
        vectors: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> State:
        """The state after these writes; of several of one document the last by sequence counts.

        A document that stands already in the same or a later version is left as it is, unless
        `vectors` (id -> [passages, dim]) brings its vectors.
        """
        reached = [self.sequence, *(d.sequence for d in documents), *tombstones.values()]
        newest: dict[str, Document] = {}
        for document in sorted(documents, key=lambda d: d.sequence):
            gone = max(tombstones.get(document.id, -1), self.deleted.get(document.id, -1))
            if gone < document.sequence:
                newest[document.id] = document
        views, fresh = self._replaced(newest, tombstones, vectors or {})
        state = replace(
            self,
            views=views,
            sequence=max(reached),
            deleted={**self.deleted, **tombstones} if tombstones else self.deleted,
        )
        if not fresh:
            return state
        made = segment_of(
            fresh,
            passage_words=self.passage_words,
            average_length=self.average_length,
            vectors=vectors,
            analyzer=self.analyzer,
        )
        return state._with(made)._merged()._averaged()

    def _replaced(
        self,
        newest: Mapping[str, Document],
        tombstones: Mapping[str, int],
        vectors: Mapping[str, NDArray[np.float32]],
    ) -> tuple[tuple[View, ...], list[Document]]:
        """The views without what is replaced or deleted, and the documents to be added."""
        stale = set()
        views = []
        for view in self.views:
            dead = []
            for name in newest.keys() | tombstones.keys():
                row = view.find(name)
                if row is None:
                    continue
                present = view.segment.documents[row].sequence
                if name in newest and present >= newest[name].sequence and name not in vectors:
                    stale.add(name)
                elif name in newest or present < tombstones[name]:
                    dead.append(row)
            views.append(view.without(dead) if dead else view)
        return tuple(views), [d for name, d in newest.items() if name not in stale]

    def _with(self, segment: Segment) -> State:
        view = whole(segment, self.scorer(segment, self.average_length))
        return replace(self, views=(*self.views, view))

    def _merged(self) -> State:
        """Merge the last segments while they are of like size (and drop what is dead in them)."""
        base, *delta = self.views
        take = 1
        size = delta[-1].segment.size
        while take < len(delta):
            before = delta[-take - 1].segment.size
            if before > 2 * size or before + size > MERGED_PASSAGES:
                break
            size += before
            take += 1
        if take == 1:
            return self
        last = delta[-take:]
        merged = merge_segments(
            [view.segment for view in last],
            [view.live_rows() for view in last],
            self.average_length,
        )
        return replace(self, views=(base, *delta[:-take]))._with(merged)

    def _averaged(self) -> State:
        """Take the average length anew while there is little to take it of."""
        total = sum(view.segment.size for view in self.views)
        if self.basis >= STABLE_PASSAGES or total < 2 * self.basis or not total:
            return self
        lengths = np.concatenate([view.segment.postings.lengths for view in self.views])
        average = float(lengths.mean(dtype=np.float64))
        views = []
        for view in self.views:
            segment = replace(view.segment, parts=saturation(view.segment.postings, average))
            views.append(replace(view, segment=segment, lexical=self.scorer(segment, average)))
        return replace(self, views=tuple(views), average_length=average, basis=total)
