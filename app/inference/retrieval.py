"""Retrieval: the one code path of ``/search``, ``/predict`` and ``/classify``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from app.inference.snapshot import Serving, Snapshot, corrected
from app.problems import Problem, invalid
from app.schemas.predict import ProvidedDocument, Retrieval
from index_data.documents import Document, normalise
from index_data.filters import Filter, InvalidFilter, parse_filter
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.labels.query_state import QueryState

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What to retrieve, and how."""

    k: int
    method: str | None = None
    lang: str | None = None
    filter: Filter | None = None
    exclude_ids: Sequence[str] = ()
    passages: bool = False  # the best passages, perhaps several of one document


def search_options(
    retrieval: Retrieval, k: int, method: str | None = None, *, passages: bool = False
) -> SearchOptions:
    """The search that a request names, for ``k`` hits. Raises ``validation`` for a bad filter."""
    return SearchOptions(
        k=k,
        method=method,
        filter=filter_of(retrieval.filter, "#/retrieval/filter"),
        exclude_ids=tuple(retrieval.exclude_ids),
        passages=passages,
    )


def filter_of(raw: Mapping[str, Any] | None, pointer: str) -> Filter | None:
    """A checked filter. Raises ``validation`` with ``pointer`` in front of its place."""
    if raw is None:
        return None
    try:
        return parse_filter(raw)
    except InvalidFilter as error:
        raise invalid(pointer + error.pointer, error.detail) from None


def method_for(snapshot: Snapshot, requested: str | None, pointer: str) -> tuple[str, list[str]]:
    """The method that will run, and notes on what it cannot do as configured.

    Raises ``capability-missing`` when a method that is requested by name cannot run.
    """
    searcher = snapshot.index()
    if requested in (None, "bm25"):
        method = requested or searcher.default_method
        if method == "bm25" or snapshot.vectors_fit:
            return method, []
        return "bm25", ["The index's vectors do not fit the loaded model: retrieval is bm25 only."]
    if snapshot.vectors_fit:
        return str(requested), []
    why = "has no vectors yet" if not searcher.has_vectors else "has another encoder's vectors"
    raise Problem("capability-missing", f"{pointer}: the index {why}; it can do: bm25.")


UNREADABLE: Final = "The encoder does not know the text's language: retrieval is bm25 only."


def method_by(method: str, requested: str | None, state: QueryState) -> str:
    """The method for one text: by default bm25 where the encoder cannot read it."""
    return method if requested is not None or state.readable else "bm25"


async def read_texts(serving: Serving, texts: Sequence[str]) -> list[QueryState]:
    """Some texts as the encoder sees them, read in batches on the model's thread."""
    reads = [asyncio.wrap_future(serving.engine.read(text, None)) for text in texts]
    return [done.state for done in await asyncio.gather(*reads)]


async def read_and_find(
    pool: ThreadPoolExecutor, snapshot: Snapshot, query: str, options: SearchOptions
) -> list[Hit]:
    """:func:`find` by the method that is requested, for a query that was not read yet."""
    method, _ = method_for(snapshot, options.method, "retrieval.method")
    vector = None
    if method != "bm25":
        (state,) = await read_texts(snapshot.model(), [query])
        vector, method = state.vector, method_by(method, options.method, state)
    return await find(pool, snapshot, query, vector, replace(options, method=method))


async def find(
    pool: ThreadPoolExecutor,
    snapshot: Snapshot,
    query: str,
    vector: Vector | None,
    options: SearchOptions,
) -> list[Hit]:
    """The documents for a query, best first, searched for on a thread of ``pool``."""
    search = partial(
        snapshot.index().search,
        query,
        k=options.k,
        method=options.method,
        lang=options.lang,
        filter=options.filter,
        query_vector=None if options.method == "bm25" else vector,
        exclude_ids=options.exclude_ids,
        passages=options.passages,
    )
    return await asyncio.get_running_loop().run_in_executor(pool, search)


def with_correction(
    snapshot: Snapshot, text: str, hits: list[Hit], options: SearchOptions
) -> list[Hit]:
    """The hits with, first, the document by which a person corrected this very text.

    The filter and the exclusions apply to it as to any other document.
    """
    correction = corrected(snapshot.index(), text)
    if correction is None or correction.doc_id in options.exclude_ids:
        return hits
    if options.filter is not None and not options.filter.matches(correction.document):
        return hits
    present = next((hit for hit in hits if hit.doc_id == correction.doc_id), None)
    if present is None:
        best = hits[0].score if hits else 1.0
        hits = [replace(correction, score=best, scores={}), *hits][: options.k]
    else:
        hits = [present, *(hit for hit in hits if hit is not present)]
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, 1)]


def same_text(text: str, hits: Sequence[Hit], field: str) -> list[Hit]:
    """The hits with the very text that is asked about and a person's label of it."""
    key = normalise(text)
    return [
        hit
        for hit in hits
        if isinstance(hit.document.labels.get(field), str)
        and hit.document.metadata.get("label_source") != "model"
        and normalise(hit.document.text) == key
    ]


def decided(same: Sequence[Hit], field: str) -> set[str]:
    """The ids of those hits of :func:`same_text` whose label decides.

    A correction given as feedback goes before other documents; where those differ, none decides.
    """
    first = [hit for hit in same if hit.document.metadata.get("source") == "feedback"] or same
    if len({str(hit.document.labels[field]) for hit in first}) != 1:
        return set()
    return {hit.doc_id for hit in first}


def provided_hits(
    documents: Sequence[ProvidedDocument],
    field: str,
    vectors: Sequence[Vector],
    query: Vector,
    options: SearchOptions,
) -> list[Hit]:
    """Documents that came with the request, ranked by the cosine to the query."""
    scores = [float(vector @ query) for vector in vectors]
    order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))
    chosen = [i for i in order if documents[i].id not in options.exclude_ids][: options.k]
    return [
        Hit(
            doc_id=documents[i].id,
            rank=rank,
            score=scores[i],
            scores={"dense": scores[i]},
            document=_document(documents[i], field),
            start=0,
            end=len(documents[i].text),
            vector=vectors[i],
        )
        for rank, i in enumerate(chosen, 1)
    ]


def _document(given: ProvidedDocument, field: str) -> Document:
    labels: dict[str, str | list[str]] = {} if given.label is None else {field: given.label}
    return Document(id=given.id, text=given.text, title=given.title, labels=labels)
