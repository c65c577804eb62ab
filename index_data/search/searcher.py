"""A snapshot of the index that answers searches: immutable, shared by all threads.

A request captures one searcher and asks nothing else, so whatever is written meanwhile cannot
change what it sees. The unit of scoring is the passage, the unit of the answer the document, which
stands where its best passage does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.filters import Filter
from index_data.search.fusion import Fusion
from index_data.segment.coarse import coarse_top
from index_data.segment.scoring import idf
from index_data.segment.topk import Ranked, intersection
from index_data.segment.vectors import dense_of, dense_top, from_half
from index_data.segment.view import View
from index_data.text import analysis
from index_data.text.analysis import STANDARD, Analyzer

Method = Literal["bm25", "dense", "hybrid"]
METHODS: tuple[Method, ...] = ("bm25", "dense", "hybrid")
LABELS = "labels."  # before the name of a label field: its filter column


class MethodUnavailable(ValueError):
    """A search by vectors where the index, or the query, has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A document found, by its best passage: `document.text[start:end]`, code points."""

    doc_id: str
    rank: int
    score: float
    scores: dict[str, float]
    document: Document
    start: int
    end: int
    vector: NDArray[np.float32] | None  # [dim], None where the passage has none

    @property
    def title(self) -> str | None:
        """The title of its document."""
        return self.document.title

    @property
    def text(self) -> str:
        """The passage."""
        return self.document.text[self.start : self.end]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Passages, best first, with what each scorer says of them; exhausted: there are no more."""

    passages: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]
    exhausted: bool


Top = Callable[[View, int], Ranked]
Skip = Callable[[int], bool]


class Searcher:
    """Searches over views: that of the generation first, then those of the documents since."""

    def __init__(
        self,
        views: Sequence[View],
        *,
        generation: int,
        sequence: int,
        encoder_sha: str | None = None,
        fusion: Fusion | None = None,
        analyzer: Analyzer = STANDARD,
    ) -> None:
        self.analyzer = analyzer
        self.views = tuple(views)
        self.generation = generation
        self.sequence = sequence
        self.encoder_sha = encoder_sha
        self.fusion = fusion or Fusion()
        self.size = sum(view.count for view in self.views)
        self.has_vectors = any(view.segment.vectors is not None for view in self.views)
        self.default_method: Method = "hybrid" if self.has_vectors else "bm25"
        sizes = [view.segment.size for view in self.views]
        self._firsts = [0, *accumulate(sizes)][: len(sizes)]
        self._passages = sum(sizes)
        self._one_each = self._passages == sum(len(v.segment.documents) for v in self.views)
        self._labels: dict[str, list[str]] = {}

    def search(
        self,
        query: str,
        *,
        k: int,
        method: str | None = None,
        lang: str | None = None,
        filter: Filter | None = None,
        query_vector: NDArray[np.float32] | None = None,
        exclude_ids: Collection[str] = (),
        exclude: Callable[[Document], bool] | None = None,
        passages: bool = False,
    ) -> list[Hit]:
        """The k best documents for a query; with `passages` the k best passages, of whatever.

        `method` None is the default method, or bm25 for a query without a vector. `exclude` and
        `exclude_ids` leave documents out as if they were not in the index (but for N and df).
        Raises MethodUnavailable for dense or hybrid without vectors, ValueError for another method.
        """
        rank = self.ranker(method, query, lang, filter, query_vector)
        skip = self._skipper(exclude_ids, exclude)
        ask = k if self._one_each or passages else 2 * k
        while True:
            ranking = rank(ask, skip)
            ranked = ranking.passages
            places = list(range(min(k, len(ranked)))) if passages else self._documents(ranked, k)
            if len(places) == k or ranking.exhausted:
                return self._hits(ranking, places)
            ask *= 2

    def field_labels(self, field: str) -> list[str]:
        """The labels that live documents have in a label field, sorted."""
        return self.column_values(LABELS + field)

    def fields(self) -> list[str]:
        """The label fields that live documents carry, sorted."""
        held = {name for view in self.views for name in view.segment.columns.names(LABELS)}
        fields = sorted(name.removeprefix(LABELS) for name in held)
        return [field for field in fields if self.field_labels(field)]

    def column_values(self, column: str) -> list[str]:
        """The values that live documents have in a filter column, sorted."""
        labels = self._labels.get(column)
        if labels is None:
            held: set[str] = set()
            for view in self.views:
                firsts = view.segment.offsets
                for value, rows in view.segment.columns.holders(column):
                    if value not in held and (not len(view.live) or view.live[firsts[rows]].any()):
                        held.add(str(value))
            labels = self._labels[column] = sorted(held)
        return list(labels)

    def holds(self, filter: Filter | None) -> bool:
        """Whether a live document passes the filter."""
        masks = ((view.count, view.allowed(filter)) for view in self.views)
        return any(bool(mask.any()) if len(mask) else count > 0 for count, mask in masks)

    def documents(self) -> Iterator[Document]:
        """Every live document."""
        for view in self.views:
            for row in view.live_rows():
                yield view.segment.documents[row]

    def query_weights(self, query: str, lang: str | None = None) -> dict[str, float]:
        """Each term of a query with its idf over all segments, times its count in the query.

        A deleted passage counts in N and df until the next generation.
        """
        weights: dict[str, float] = {}
        for term, count in Counter(analysis.query_terms(query, lang, self.analyzer)).items():
            frequency = sum(v.segment.postings.document_frequency(term) for v in self.views)
            if frequency:
                weights[term] = idf(self._passages, frequency) * count
        return weights

    def ranker(
        self,
        method: str | None,
        query: str,
        lang: str | None = None,
        filter: Filter | None = None,
        vector: NDArray[np.float32] | None = None,
    ) -> Callable[[int, Skip | None], Ranking]:
        """Ranks k passages at least, where there are so many, without those that are skipped.

        Raises what `search` does.
        """
        if method is None:
            method = self.default_method if vector is not None else "bm25"
        if method not in METHODS:
            raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
        if method == "bm25":
            lexical = _lexical_top(self.query_weights(query, lang), filter)
            return lambda k, skip: self._single("bm25", lexical, k, skip)
        query_vector = self._checked(vector, method)
        dense = _dense_top(query_vector, filter)
        if method == "dense":
            return lambda k, skip: self._single("dense", dense, k, skip)
        weights = self.query_weights(query, lang)
        both = (_lexical_top(weights, filter), dense)
        return lambda k, skip: self._hybrid(weights, query_vector, both, k, skip)

    def _checked(self, vector: NDArray[np.float32] | None, method: str) -> NDArray[np.float32]:
        if not self.has_vectors:
            raise MethodUnavailable(f"{method}: the index has no vectors")
        if vector is None:
            raise MethodUnavailable(f"{method}: the query has no vector")
        dim = next(v.segment.vectors.shape[1] for v in self.views if v.segment.vectors is not None)
        if vector.shape != (dim,):
            raise MethodUnavailable(
                f"{method}: the query's vector has shape {vector.shape}, not {dim}"
            )
        return np.ascontiguousarray(vector, dtype=np.float32)

    def _single(self, name: str, top: Top, k: int, skip: Skip | None) -> Ranking:
        passages, scores, exhausted = self._top(top, k, skip)
        return Ranking(passages, {name: scores}, exhausted)

    def _hybrid(
        self,
        weights: Mapping[str, float],
        vector: NDArray[np.float32],
        tops: tuple[Top, Top],
        k: int,
        skip: Skip | None,
    ) -> Ranking:
        depth = max(k, self.fusion.depth)
        parts = [self._top(top, depth, skip) for top in tops]
        passages = np.unique(np.concatenate([ranked[0] for ranked in parts]))
        lexical = np.zeros(len(passages), dtype=np.float32)
        dense = np.zeros(len(passages), dtype=np.float32)
        known = np.zeros(len(passages), dtype=np.bool_)
        for view, inside, local in self._split(passages):
            lexical[inside] = view.lexical.of(weights, local)
            if view.segment.vectors is not None:
                dense[inside] = dense_of(vector, view.segment.vectors, local)
                has = view.segment.has_vector
                known[inside] = has[local].astype(np.bool_) if len(has) else True
        fused = self.fusion.fuse(lexical, dense, known)
        order = np.lexsort((passages, -fused))
        scores = {"bm25": lexical[order], "dense": dense[order], "fused": fused[order]}
        return Ranking(passages[order], scores, all(ranked[2] for ranked in parts))

    def _top(
        self, top: Top, k: int, skip: Skip | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], bool]:
        """The k best passages of all views that are not skipped, and whether there are no more."""
        ask = k if skip is None else k + 16
        while True:
            passages, scores = self._merged(top, ask)
            exhausted = len(passages) < ask
            if skip is not None:
                retained = np.fromiter(
                    (not skip(int(p)) for p in passages), np.bool_, len(passages)
                )
                passages, scores = passages[retained], scores[retained]
            if len(passages) >= k or exhausted:
                return passages[:k], scores[:k], exhausted and len(passages) <= k
            ask *= 2

    def _merged(self, top: Top, k: int) -> Ranked:
        parts = []
        for first, view in zip(self._firsts, self.views, strict=True):
            local, scores = top(view, k)
            if len(local):
                parts.append((local + first, scores))
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        passages = np.concatenate([p for p, _ in parts])
        scores = np.concatenate([s for _, s in parts])
        order = np.lexsort((passages, -scores))[:k]
        return passages[order], scores[order]

    def _split(
        self, passages: NDArray[np.int64]
    ) -> Iterator[tuple[View, NDArray[np.intp], NDArray[np.int64]]]:
        """The views that hold some of the passages: at which positions, under their own numbers."""
        if len(self.views) == 1:
            yield self.views[0], np.arange(len(passages)), passages
            return
        owner = np.searchsorted(self._firsts, passages, side="right") - 1
        for number in np.unique(owner):
            inside = np.flatnonzero(owner == number)
            yield self.views[number], inside, passages[inside] - self._firsts[number]

    def _documents(self, passages: NDArray[np.int64], k: int) -> list[int]:
        """The positions of the best passage of each of the first k documents."""
        if self._one_each:
            return list(range(min(k, len(passages))))
        keys: list[tuple[int, int]] = [(0, 0)] * len(passages)
        for number, (view, inside, local) in enumerate(self._split(passages)):
            for position, row in zip(
                inside.tolist(), view.segment.owners[local].tolist(), strict=True
            ):
                keys[position] = (number, row)
        first: dict[tuple[int, int], int] = {}
        for position, key in enumerate(keys):
            first.setdefault(key, position)
        return list(first.values())[:k]

    def _hits(self, ranking: Ranking, places: list[int]) -> list[Hit]:
        final = list(ranking.scores)[-1]
        columns = {name: scores[places].tolist() for name, scores in ranking.scores.items()}
        hits: dict[int, Hit] = {}
        for view, inside, local in self._split(ranking.passages[places]):
            segment = view.segment
            spans = segment.spans[local].tolist()
            owners = segment.owners[local].tolist()
            vectors = _vectors(view, local)
            for row, place in enumerate(inside.tolist()):
                document = segment.documents[owners[row]]
                hits[place] = Hit(
                    doc_id=document.id,
                    rank=place + 1,
                    score=columns[final][place],
                    scores={name: values[place] for name, values in columns.items()},
                    document=document,
                    start=spans[row][0],
                    end=spans[row][1],
                    vector=vectors[row],
                )
        return [hits[place] for place in range(len(places))]

    def _skipper(
        self, names: Collection[str], exclude: Callable[[Document], bool] | None
    ) -> Skip | None:
        if not names and exclude is None:
            return None
        rows: dict[tuple[int, int], bool] = {}
        for name in names:
            for number, view in enumerate(self.views):
                row = view.find(name)
                if row is not None:
                    rows[number, row] = True

        def skip(passage: int) -> bool:
            number = bisect_right(self._firsts, passage) - 1  # steps over views without passages
            segment = self.views[number].segment
            key = (number, int(segment.owners[passage - self._firsts[number]]))
            if key not in rows:
                rows[key] = exclude is not None and exclude(segment.documents[key[1]])
            return rows[key]

        return skip


def _vectors(view: View, passages: NDArray[np.int64]) -> Sequence[NDArray[np.float32] | None]:
    vectors, has_vector = view.segment.vectors, view.segment.has_vector
    if vectors is None:
        return [None] * len(passages)
    rows = list(from_half(vectors[passages]))
    if not len(has_vector):
        return rows
    has = has_vector[passages].tolist()
    return [vector if known else None for vector, known in zip(rows, has, strict=True)]


def _lexical_top(weights: Mapping[str, float], filter: Filter | None) -> Top:
    return lambda view, k: view.lexical.top(weights, k, view.allowed(filter))


def _dense_top(vector: NDArray[np.float32], filter: Filter | None) -> Top:
    def top(view: View, k: int) -> Ranked:
        segment = view.segment
        if segment.vectors is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        allowed = intersection(segment.has_vector, view.allowed(filter))
        if segment.coarse is not None:
            return coarse_top(vector, segment.coarse, segment.vectors, k, allowed)
        return dense_top(vector, segment.vectors, k, allowed)

    return top
