"""Finding the passages for a text: from the index, from provided documents, or from a context."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.inference.answer import Evidence
from app.inference.retrieval import (
    SearchOptions,
    find,
    method_for,
    read_texts,
    search_options,
)
from app.inference.snapshot import Snapshot
from app.predict.task import Context
from app.schemas.predict import Retrieval
from index_data.documents import Document
from index_data.search.evidence import text_evidence
from index_data.search.searcher import Hit, Searcher
from index_data.segment.segment import segment_of
from index_data.segment.view import compiled, whole
from index_data.text.analysis import terms
from index_data.text.passages import passages as passages_of

PASSAGES = 8  # retrieved for a text that is to be generated, where a request names no k
MOST_PASSAGES = 32  # read for one input
CONTEXT_WORDS = 100  # of a passage of a provided document or a context
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for: texts with weights, whole numbers, the weightiest first."""

    parts: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """For BM25: each part as often as its weight."""
        return "\n".join(text for text, weight in self.parts for _ in range(weight))

    def words(self) -> frozenset[str]:
        """All its content words."""
        return frozenset(term for part, _ in self.parts for term in terms(part))

    def held(self, text: str) -> float:
        """The share of its content words, by their weights, that a text holds."""
        there = set(terms(text))
        words = [(w, term in there) for part, w in self.parts for term in terms(part)]
        return sum(w for w, held in words if held) / (sum(w for w, _ in words) or 1)

    @property
    def empty(self) -> bool:
        """Whether there is no word to look for."""
        return not any(map(str.isalnum, self.text))


@dataclass(frozen=True, slots=True)
class Passages:
    """The passages, best first; warnings; the vector of the query; the time it all took.

    ``vector``: [dim]; None where the encoder does not know the query's language, so that its
    vectors mean nothing.
    """

    hits: list[Hit]
    warnings: list[str]
    vector: Vector | None
    retrieve_ms: float = 0.0


async def retrieve(context: Context, query: Query, recorded: Evidence | None) -> Passages:
    """The passages for a query, by the request's mode. ``recorded``: these, without retrieval.

    Raises ``capability-missing`` for a method that the index cannot do.
    """
    began = time.perf_counter()
    if recorded is None:
        passages = await passages_for(context, query)
    else:
        vector, readable = None, False
        if not query.empty:
            vector, readable = await query_vector(context.snapshot, query)
        passages = Passages(recorded.hits, [], vector if readable else None)
    return replace(passages, retrieve_ms=1000 * (time.perf_counter() - began))


async def passages_for(context: Context, query: Query) -> Passages:
    """The passages for a query, by the request's mode. Raises ``capability-missing``."""
    snapshot, retrieval = context.snapshot, context.request.retrieval
    if retrieval.mode == "off" or query.empty:
        return Passages([], [], None)
    k, warnings = limited(retrieval.k or PASSAGES)
    vector, readable = await query_vector(snapshot, query)
    known, pool = vector if readable else None, context.pipeline.pool
    if retrieval.mode == "provided":
        hits, more = await nearest_to(query.text, provided(retrieval), pool)
        return Passages(await ranked(snapshot, hits, query, known, k), [*warnings, *more], known)
    method, _ = method_for(snapshot, retrieval.method, "retrieval.method")
    if not readable and retrieval.method is None:
        method = "bm25"
    search = as_evidence(snapshot, retrieval, search_options(retrieval, k, method, passages=True))
    return Passages(await find(pool, snapshot, query.text, vector, search), warnings, known)


def as_evidence(snapshot: Snapshot, retrieval: Retrieval, search: SearchOptions) -> SearchOptions:
    """The search among the documents that are evidence for a text."""
    return replace(
        search, filter=text_evidence(snapshot.index(), retrieval.evidence, search.filter)
    )


def limited(k: int) -> tuple[int, list[str]]:
    """At most ``MOST_PASSAGES``, with a warning where that is fewer."""
    warnings = [f"retrieval.k: the best {MOST_PASSAGES} were read"] if k > MOST_PASSAGES else []
    return min(k, MOST_PASSAGES), warnings


def provided(retrieval: Retrieval) -> list[Document]:
    """The documents that came with the request, without those that it excludes."""
    excluded = set(retrieval.exclude_ids)
    given = [d for d in retrieval.documents or () if d.id not in excluded]
    return [Document(d.id, d.text, d.title) for d in given]


async def nearest_to(
    text: str, documents: Sequence[Document], pool: ThreadPoolExecutor
) -> tuple[list[Hit], list[str]]:
    """:func:`nearest` on a thread of ``pool``."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(pool, nearest, documents, text, MOST_PASSAGES)


def nearest(documents: Sequence[Document], text: str, most: int) -> tuple[list[Hit], list[str]]:
    """The passages of some documents: all of them, or the ``most`` nearest to a text by BM25.

    With a warning where there are more.
    """
    pieces = [
        (document, start, end)
        for document in documents
        for start, end in passages_of(document.text, words=CONTEXT_WORDS)
    ]
    warnings = []
    if len(pieces) > most:
        warnings.append(f"of {len(pieces)} passages the {most} nearest to the question were read")
        texts = [Document(str(i), d.text[start:end]) for i, (d, start, end) in enumerate(pieces)]
        segment = segment_of(texts, passage_words=0, average_length=float(CONTEXT_WORDS))
        view = whole(segment, compiled(segment, float(CONTEXT_WORDS)))
        searcher = Searcher([view], generation=0, sequence=0)
        best = [int(hit.doc_id) for hit in searcher.search(text, k=most, method="bm25")]
        rest = [i for i in range(len(pieces)) if i not in set(best)]
        pieces = [pieces[i] for i in sorted([*best, *rest[: most - len(best)]])]
    hits = [
        Hit(document.id, rank, 0.0, {}, document, start, end, None)
        for rank, (document, start, end) in enumerate(pieces, 1)
    ]
    return hits, warnings


async def ranked(
    snapshot: Snapshot, hits: Sequence[Hit], query: Query, vector: Vector | None, k: int
) -> list[Hit]:
    """Provided passages, by the cosine to the query, or by its words where it has no vector."""
    if vector is None:
        scored = [replace(h, score=query.held(f"{h.title or ''}\n{h.text}")) for h in hits]
    else:
        texts = [hit.text for hit in hits]
        vectors = [state.vector for state in await read_texts(snapshot.model(), texts)]
        scores = [float(near @ vector) for near in vectors]
        scored = [
            replace(hit, score=score, scores={"dense": score}, vector=near)
            for hit, score, near in zip(hits, scores, vectors, strict=True)
        ]
    best = sorted(scored, key=lambda hit: -hit.score)[:k]
    return [replace(hit, rank=rank) for rank, hit in enumerate(best, 1)]


async def query_vector(snapshot: Snapshot, query: Query) -> tuple[Vector, bool]:
    """The vector [dim] of a query of several parts, of length 1; and whether it means anything.

    It does not where the encoder's vocabulary does not cover most of the query.
    """
    states = await read_texts(snapshot.model(), [text for text, _ in query.parts])
    weights = [weight for _, weight in query.parts]
    known = sum(w for state, w in zip(states, weights, strict=True) if state.readable)
    total = sum(w * state.vector for state, w in zip(states, weights, strict=True))
    mean: Vector = np.asarray(total, np.float32)
    length = float(np.linalg.norm(mean))
    return mean / length if length else mean, 2 * known >= sum(weights)
