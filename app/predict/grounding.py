"""What a text that is to be written may rest on: passages for a prompt or a dialogue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.inference.retrieval import SearchOptions, filter_of, find, method_for
from app.inference.snapshot import Snapshot
from app.predict.qa import nearest
from app.schemas.predict import Retrieval
from app.state import Footnote
from index_data.documents import Document
from index_data.search.searcher import Hit
from index_data.text.analysis import terms

if TYPE_CHECKING:
    from model.labels.query_state import QueryState

PASSAGES = 8  # retrieved where a request does not say
MOST_PASSAGES = 32
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for: texts with weights, whole numbers, the weightiest first."""

    parts: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """For BM25, which counts a term as often as it is said."""
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
class Found:
    """The passages, best first; notes for the request's warnings; what the encoder made of it.

    ``vector``: of the query [dim]; None where the encoder does not know the query's language, so
    that its vectors mean nothing.
    """

    hits: list[Hit]
    notes: list[str]
    vector: Vector | None


async def states_of(snapshot: Snapshot, texts: Sequence[str]) -> list[QueryState]:
    """Some texts as the encoder sees them, read in batches on the model's thread."""
    engine = snapshot.model().engine
    reads = [asyncio.wrap_future(engine.read(text, None)) for text in texts]
    return [done.state for done in await asyncio.gather(*reads)]


async def vectors_of(snapshot: Snapshot, texts: Sequence[str]) -> list[Vector]:
    """The base vectors [dim] of some texts."""
    return [state.vector for state in await states_of(snapshot, texts)]


async def query_vector(snapshot: Snapshot, query: Query) -> tuple[Vector, bool]:
    """The vector [dim] of a query of several parts, of length 1; and whether it means anything.

    It does not where the encoder's vocabulary does not cover most of the query.
    """
    states = await states_of(snapshot, [text for text, _ in query.parts])
    weights = [weight for _, weight in query.parts]
    known = sum(w for state, w in zip(states, weights, strict=True) if state.readable)
    total = sum(w * state.vector for state, w in zip(states, weights, strict=True))
    mean: Vector = np.asarray(total, np.float32)
    length = float(np.linalg.norm(mean))
    return mean / length if length else mean, 2 * known >= sum(weights)


async def evidence(
    footnote: Footnote, snapshot: Snapshot, query: Query, wanted: Retrieval
) -> Found:
    """The passages that a text may rest on, by the request's mode.

    Raises ``capability-missing`` for a method that the index cannot do.
    """
    if wanted.mode == "off" or query.empty:
        return Found([], [], None)
    k = wanted.k or PASSAGES
    notes = [f"retrieval.k: the best {MOST_PASSAGES} were read"] if k > MOST_PASSAGES else []
    k = min(k, MOST_PASSAGES)
    vector, readable = await query_vector(snapshot, query)
    known = vector if readable else None
    pool, loop = footnote.pipeline.pool, asyncio.get_running_loop()
    if wanted.mode == "provided":
        left = [d for d in wanted.documents or () if d.id not in set(wanted.exclude_ids)]
        given = [Document(d.id, d.text, d.title) for d in left]
        pieces, more = await loop.run_in_executor(pool, nearest, given, query.text, MOST_PASSAGES)
        return Found(await ranked(snapshot, pieces, query, known, k), [*notes, *more], known)
    method, _ = method_for(snapshot, wanted.method, "retrieval.method")
    if not readable and wanted.method is None:
        method = "bm25"
    search = SearchOptions(
        k=k,
        method=method,
        filter=filter_of(wanted.filter, "#/retrieval/filter"),
        exclude_ids=tuple(wanted.exclude_ids),
        passages=True,
    )
    hits = await find(pool, snapshot, query.text, vector, search)
    return Found(hits, notes, known)


async def ranked(
    snapshot: Snapshot, pieces: Sequence[Hit], query: Query, vector: Vector | None, k: int
) -> list[Hit]:
    """Passages that came with the request, by the cosine to the query, else by its words."""
    if vector is None:
        made = [replace(p, score=query.held(f"{p.document.title or ''}\n{p.text}")) for p in pieces]
    else:
        vectors = await vectors_of(snapshot, [piece.text for piece in pieces])
        scores = [float(near @ vector) for near in vectors]
        made = [
            replace(piece, score=score, scores={"dense": score}, vector=near)
            for piece, score, near in zip(pieces, scores, vectors, strict=True)
        ]
    best = sorted(made, key=lambda hit: -hit.score)[:k]
    return [replace(hit, rank=rank) for rank, hit in enumerate(best, 1)]


def method_note(snapshot: Snapshot, wanted: Retrieval) -> list[str]:
    """In what retrieval falls short of what the index was made for."""
    if wanted.mode != "index":
        return []
    return method_for(snapshot, wanted.method, "retrieval.method")[1]
