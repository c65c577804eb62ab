"""A segment: some passages with all that a search needs of them, never changed once made.

A generation on disk is one large segment whose arrays are memory-mapped; documents written since
are small segments in memory. Both are this class, so one scorer serves both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.filters import Filter
from index_data.segment.coarse import Coarse
from index_data.segment.columns import Columns, columns_of
from index_data.segment.postings import Postings, boundaries, merge, postings_of, saturation
from index_data.segment.topk import NO_MASK, Mask
from index_data.segment.vectors import Half, from_half, present, to_half
from index_data.text import analysis
from index_data.text.analysis import STANDARD, Analyzer
from index_data.text.passages import passages

CACHED_FILTERS = 32


@dataclass(frozen=True, slots=True)
class Ids:
    """Document numbers by id: sorted 64-bit digests of the ids, checked against the documents."""

    digests: NDArray[np.uint64]  # [documents], ascending
    rows: NDArray[np.uint32]  # [documents]

    @classmethod
    def of(cls, ids: Sequence[str]) -> Ids:
        """The table of ids that stand in the order of their numbers."""
        digests = np.fromiter((_digest(name) for name in ids), np.uint64, len(ids))
        order = np.argsort(digests, kind="stable")
        return cls(digests[order], order.astype(np.uint32))

    def candidates(self, name: str) -> NDArray[np.uint32]:
        """The numbers under the digest of `name`: one or none, but for a collision."""
        digest = np.uint64(_digest(name))
        low, high = (np.searchsorted(self.digests, digest, side) for side in ("left", "right"))
        return self.rows[low:high]


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, eq=False, slots=True)
class Segment:
    """Documents cut into passages: `offsets[d]:offsets[d + 1]` are the passages of document d."""

    postings: Postings
    parts: NDArray[np.float32]  # [entries], `postings.saturation`
    documents: Sequence[Document]
    offsets: NDArray[np.int64]  # [documents + 1]
    owners: NDArray[np.uint32]  # [passages], the document of each
    spans: NDArray[np.uint32]  # [passages, 2], code points of the document's text
    ids: Ids
    columns: Columns
    vectors: Half | None  # [passages, dim]
    has_vector: Mask
    coarse: Coarse | None = None  # where there are too many vectors to read them all
    filter_mask: Callable[[Filter], Mask] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mask = lru_cache(CACHED_FILTERS)(partial(_filter_mask, self.columns, self.owners))
        object.__setattr__(self, "filter_mask", mask)
        # Mapped files are read-only; were arrays in memory not, each kernel would compile twice.
        for array in (self.postings.passages, self.parts, self.vectors, self.has_vector):
            if array is not None:
                array.flags.writeable = False

    @property
    def size(self) -> int:
        """The number of passages."""
        return len(self.owners)

    def find(self, name: str) -> int | None:
        """The number of the document with this id; the last one, were there several."""
        rows = [int(r) for r in self.ids.candidates(name) if self.documents[int(r)].id == name]
        return max(rows, default=None)

    def vector(self, passage: int) -> NDArray[np.float32] | None:
        """The vector [dim] of a passage; None where it has none (yet)."""
        if self.vectors is None or (len(self.has_vector) and not self.has_vector[passage]):
            return None
        return from_half(self.vectors[passage])

    def allowed(self, filter: Filter | None) -> Mask:
        """The passages whose documents pass the filter, as a mask for the scorers."""
        return self.filter_mask(filter) if filter else NO_MASK


def _filter_mask(columns: Columns, owners: NDArray[np.uint32], filter: Filter) -> Mask:
    passing = columns.mask(filter)
    if passing.all():  # the role of evidence often is that of all documents
        return NO_MASK
    mask = passing[owners].astype(np.uint8)
    mask.flags.writeable = False
    return mask


def embedding_text(document: Document, start: int, end: int) -> str:
    """What is analysed and encoded for a passage: the title stands above each of them."""
    text = document.text[start:end]
    return f"{document.title}\n{text}" if document.title else text


def passage_spans(document: Document, words: int) -> list[tuple[int, int]]:
    """Where the passages of a document begin and end; one passage where it is short enough."""
    return passages(document.text, words=words)


def passage_texts(document: Document, words: int) -> list[str]:
    """The texts that a document's vectors are made from, one a passage."""
    return [embedding_text(document, *span) for span in passage_spans(document, words)]


def segment_of(
    documents: Sequence[Document],
    *,
    passage_words: int,
    average_length: float,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
    analyzer: Analyzer = STANDARD,
) -> Segment:
    """A segment in memory. `vectors`: by id, [passages, dim]; a document may have none.

    Raises ValueError when a document's vectors are not as many as its passages.
    """
    spans = [passage_spans(document, passage_words) for document in documents]
    terms = [
        analysis.terms(embedding_text(document, *span), document.lang, analyzer)
        for document, parts in zip(documents, spans, strict=True)
        for span in parts
    ]
    counts = np.fromiter((len(parts) for parts in spans), np.int64, len(spans))
    return _assemble(
        postings_of(terms),
        average_length,
        tuple(documents),
        counts,
        np.array([s for parts in spans for s in parts], dtype=np.uint32).reshape(-1, 2),
        _vector_rows(documents, counts, vectors or {}),
    )


def merge_segments(
    segments: Sequence[Segment], keep: Sequence[Sequence[int]], average_length: float
) -> Segment:
    """One segment in memory out of several, with only the documents `keep` of each."""
    counts = [np.diff(s.offsets)[list(rows)] for s, rows in zip(segments, keep, strict=True)]
    chosen = [_passages(s, rows) for s, rows in zip(segments, keep, strict=True)]
    postings = [
        s.postings if len(p) == s.size else s.postings.select(p)
        for s, p in zip(segments, chosen, strict=True)
    ]
    dim = next((s.vectors.shape[1] for s in segments if s.vectors is not None), None)
    half = None
    if dim is not None:
        half = np.concatenate(
            [
                np.zeros((len(p), dim), np.int16) if s.vectors is None else s.vectors[p]
                for s, p in zip(segments, chosen, strict=True)
            ]
        )
    return _assemble(
        merge(postings),
        average_length,
        tuple(s.documents[r] for s, rows in zip(segments, keep, strict=True) for r in rows),
        np.concatenate(counts),
        np.concatenate([s.spans[p] for s, p in zip(segments, chosen, strict=True)]),
        half,
    )


def _assemble(
    postings: Postings,
    average_length: float,
    documents: Sequence[Document],
    counts: NDArray[np.int64],
    spans: NDArray[np.uint32],
    half: Half | None,
) -> Segment:
    return Segment(
        postings=postings,
        parts=saturation(postings, average_length),
        documents=documents,
        offsets=boundaries(counts),
        owners=np.repeat(np.arange(len(documents), dtype=np.uint32), counts),
        spans=spans,
        ids=Ids.of([document.id for document in documents]),
        columns=columns_of(documents),
        vectors=half,
        has_vector=NO_MASK if half is None else present(half),
    )


def _vector_rows(
    documents: Sequence[Document],
    counts: NDArray[np.int64],
    vectors: Mapping[str, NDArray[np.float32]],
) -> Half | None:
    dim = next((rows.shape[1] for rows in vectors.values()), None)
    if dim is None:
        return None
    matrix = np.zeros((int(counts.sum()), dim), dtype=np.float32)
    row = 0
    for document, count in zip(documents, counts, strict=True):
        rows = vectors.get(document.id)
        if rows is not None:
            if rows.shape != (count, dim):
                raise ValueError(f"vectors of shape {rows.shape} for {count} passages of {dim}")
            matrix[row : row + count] = rows
        row += int(count)
    return to_half(matrix)


def _passages(segment: Segment, rows: Sequence[int]) -> NDArray[np.int64]:
    spans = [np.arange(segment.offsets[r], segment.offsets[r + 1]) for r in rows]
    return np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
