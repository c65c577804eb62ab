"""What is retrieved for each chunk of a text to pre-train on: by BM25, from the chunk's past alone.

The query is the text of the chunks before; nothing of the chunk itself, or of what follows it, is
looked at. Two settings: a document's `own` past beyond the local window, and `others`, which are
never the document itself or a near-duplicate. Weights of terms come from the training documents.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from index_data.segment.postings import Postings, postings_of, saturation
from index_data.segment.scoring import CompiledScorer, idf
from index_data.text.analysis import terms
from index_data.text.similarity import Grams, Shingler, alike
from model.lm.corpus import LMCorpus, LMDocument

log = logging.getLogger(__name__)

Setting = Literal["own", "others"]
QUERY_CHUNKS: Final = 2
QUERY_TERMS: Final = 16
"""The terms of a query that weigh most: the common ones cost most and decide least."""


@dataclass(slots=True)
class Counts:
    """What was done, and what was left out."""

    queries: int = 0
    found: int = 0
    duplicate_documents: int = 0  # pairs of documents that may not see each other
    duplicate_passages: int = 0  # hits dropped since they repeat the query's last chunk


@dataclass(frozen=True, slots=True)
class Reach:
    """Where passages may lie: how many are kept, and how far the local window goes."""

    k: int
    window_chunks: int
    passage_chunks: int

    @property
    def gap(self) -> int:
        """A passage that begins so many chunks before another's window end is not in it."""
        return self.window_chunks + self.passage_chunks - 1


@dataclass(frozen=True, slots=True)
class Statistics:
    """How common terms are in the training documents of a source. ``average``: terms a passage."""

    size: int
    frequencies: Counter[str]
    average: float

    @classmethod
    def of(cls, passages: Sequence[Sequence[str]]) -> Statistics:
        """Count passages by term."""
        size = len(passages)
        frequencies = Counter(term for one in passages for term in set(one))
        return cls(size, frequencies, sum(map(len, passages)) / size if size else 0.0)

    def weights(self, query: Sequence[str]) -> dict[str, float]:
        """A query's heaviest terms: idf times how often each stands in it."""
        counts = Counter(query)
        weighed = {t: n * idf(self.size, self.frequencies[t]) for t, n in counts.items()}
        best = sorted(weighed.items(), key=lambda item: (-item[1], item[0]))[:QUERY_TERMS]
        return dict(best)


def retrieve(
    corpus: LMCorpus,
    decode: Callable[[Sequence[int]], str],
    settings: Mapping[str, Setting],
    reach: Reach,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Counts]:
    """Fill the corpus's neighbours; by source, what was done.

    `settings` says for each source where passages come from; `tick` hears for how many chunks
    it is done, and how many there are.
    """
    counts = {}
    done = 0
    for source, setting in settings.items():
        documents = [d for d in corpus.documents if d.source == source]
        texts = {
            d.first + i: decode(row.tolist())
            for d in documents
            for i, row in enumerate(corpus.tokens[d.first : d.end])
        }
        chunk_terms = {chunk: terms(text) for chunk, text in texts.items()}
        train = [
            chunk_terms[c] for d in documents if d.split == "train" for c in range(d.first, d.end)
        ]
        statistics = Statistics.of(train)
        counts[source] = Counts()
        if setting == "own":
            work = _own(documents, chunk_terms, statistics, reach, counts[source])
        else:
            work = _others(documents, texts, chunk_terms, statistics, reach, counts[source])
        for chunk, hits in work:
            corpus.neighbours[chunk, : len(hits)] = hits
            done += 1
            tick(done, len(corpus.tokens))
    return counts


def _query(chunk_terms: Mapping[int, list[str]], document: LMDocument, chunk: int) -> list[str]:
    before = range(max(document.first, chunk - QUERY_CHUNKS), chunk)
    return [term for c in before for term in chunk_terms[c]]


def _own(
    documents: Sequence[LMDocument],
    chunk_terms: Mapping[int, list[str]],
    statistics: Statistics,
    reach: Reach,
    counts: Counts,
) -> Iterator[tuple[int, list[int]]]:
    """Each document's own past: passages that end before any window with the chunk begins."""
    for document in documents:
        size = document.end - document.first
        postings = postings_of(chunk_terms[c] for c in range(document.first, document.end))
        parts = saturation(postings, statistics.average)
        allowed = np.zeros(size, dtype=np.uint8)
        for place in range(size):
            if place < reach.gap:
                yield document.first + place, []
                continue
            # Of the chunks, those up to place - gap: a passage that begins there ends in time.
            allowed[: place - reach.gap + 1] = 1
            weights = statistics.weights(_query(chunk_terms, document, document.first + place))
            best = _best(postings, parts, weights, 3 * reach.k, allowed)
            hits = _apart(best, reach)[: reach.k]
            counts.queries += 1
            counts.found += len(hits)
            yield document.first + place, [document.first + hit for hit in hits]


def _others(
    documents: Sequence[LMDocument],
    texts: Mapping[int, str],
    chunk_terms: Mapping[int, list[str]],
    statistics: Statistics,
    reach: Reach,
    counts: Counts,
) -> Iterator[tuple[int, list[int]]]:
    """Training documents other than the one itself and its near-duplicates."""
    index = [d for d in documents if d.split == "train"]
    numbers = np.array([c for d in index for c in range(d.first, d.end)], dtype=np.int64)
    owner = np.array([i for i, d in enumerate(index) for _ in range(d.first, d.end)], np.int64)
    first = np.searchsorted(owner, np.arange(len(index) + 1))
    postings = postings_of(chunk_terms[c] for c in numbers)
    parts = saturation(postings, statistics.average)
    shingler = Shingler()

    @cache
    def grams(first: int, end: int) -> Grams:
        return shingler.grams("".join(texts[c] for c in range(first, end)))

    def whole(document: LMDocument) -> Grams:
        return grams(document.first, document.end)

    allowed = np.ones(len(numbers), dtype=np.uint8)
    itself = {d.first: i for i, d in enumerate(index)}
    for document in documents:
        banned = [itself[document.first]] if document.first in itself else []
        for one in banned:
            allowed[first[one] : first[one + 1]] = 0
        known: set[int] = set()
        yield document.first, []
        for chunk in range(document.first + 1, document.end):
            weights = statistics.weights(_query(chunk_terms, document, chunk))
            while True:
                best = _best(postings, parts, weights, 4 * reach.k, allowed)
                new = {int(owner[hit]) for hit in best} - known
                known |= new
                same = [i for i in new if alike(whole(document), whole(index[i]))]
                if not same:
                    break
                for one in same:
                    allowed[first[one] : first[one + 1]] = 0
                banned += same
                counts.duplicate_documents += len(same)
            last = grams(chunk - 1, chunk)
            repeats = (alike(last, grams(int(n), int(n) + 1)) for n in numbers[best])
            distinct = [hit for hit, same in zip(best, repeats, strict=True) if not same]
            counts.duplicate_passages += len(best) - len(distinct)
            hits = _apart(distinct, reach, owner)[: reach.k]
            counts.queries += 1
            counts.found += len(hits)
            yield chunk, [int(numbers[hit]) for hit in hits]
        for one in banned:
            allowed[first[one] : first[one + 1]] = 1


def _best(
    postings: Postings,
    parts: NDArray[np.float32],
    weights: Mapping[str, float],
    k: int,
    allowed: NDArray[np.uint8],
) -> list[int]:
    best: list[int] = CompiledScorer(postings, parts).top(weights, k, allowed=allowed)[0].tolist()
    return best


def _apart(hits: Sequence[int], reach: Reach, owner: NDArray[np.int64] | None = None) -> list[int]:
    """Without those whose passage would overlap that of a better one."""
    apart: list[int] = []
    for hit in hits:
        if all(
            abs(hit - other) >= reach.passage_chunks
            or (owner is not None and owner[hit] != owner[other])
            for other in apart
        ):
            apart.append(hit)
    return apart
