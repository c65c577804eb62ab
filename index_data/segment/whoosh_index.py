"""The inverted index of a generation: a Whoosh index of our own terms, one document a passage.

What to know of whoosh-reloaded 2.7.5: it never syncs (`SyncedStorage` does), it unpickles what it
opens (open only what a manifest vouches for), an open reader is large (closed once compiled),
`refresh` is wrong (never called). Its query parser is not used: terms come analysed.
"""

from __future__ import annotations

import os
import threading
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from whoosh import formats
from whoosh.fields import FieldType, Schema
from whoosh.filedb.filestore import FileStorage, RamStorage
from whoosh.filedb.structfile import StructFile
from whoosh.index import FileIndex
from whoosh.matching import Matcher
from whoosh.query import Or, Term
from whoosh.reading import IndexReader
from whoosh.scoring import BaseScorer, WeightingModel
from whoosh.searching import Searcher as WhooshSearcher
from whoosh.system import pack_uint

from index_data.segment.postings import K1, B, Postings
from index_data.segment.topk import NO_MASK, Mask, Ranked, passes
from index_data.storage.database import sync_folder

FIELD = "terms"
POOL_MB = 256


class TermsField(FieldType):  # type: ignore[misc]
    """A field whose value is the list of a passage's terms, already analysed."""

    def __init__(self) -> None:
        super().__init__(format=formats.Frequency(), analyzer=None, scorable=True)

    def index(self, value: Sequence[str], **_: Any) -> Iterator[tuple[bytes, int, float, bytes]]:
        """Each term with its frequency, its weight and what Whoosh stores of it."""
        for term, frequency in Counter(value).items():
            yield term.encode(), frequency, float(frequency), pack_uint(frequency)


class SyncedStorage(FileStorage):  # type: ignore[misc]
    """Files in a folder, each on the disk before it is used: Whoosh itself never calls fsync."""

    def create_file(
        self, name: str, excl: bool = False, mode: str = "wb", **kwargs: Any
    ) -> StructFile:
        """A file that is synced when it is closed."""

        def sync(file: StructFile) -> None:
            file.file.flush()
            os.fsync(file.file.fileno())

        return super().create_file(name, excl=excl, mode=mode, onclose=sync, **kwargs)

    def rename_file(self, oldname: str, newname: str, safe: bool = False) -> None:
        """Rename, and sync the folder that holds the name."""
        super().rename_file(oldname, newname, safe=safe)
        sync_folder(Path(self.folder))


class MemoryStorage(RamStorage):  # type: ignore[misc]
    """Files in memory. Whoosh would keep the temporary files of all of them in one folder."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = f"footnote-{uuid4().hex}"

    def temp_storage(self, name: str | None = None) -> FileStorage:
        """A folder of its own for temporary files, one for all that ask."""
        return super().temp_storage(self._temporary)


def write(folder: Path, passages: Iterable[Sequence[str]]) -> None:
    """A Whoosh index in `folder` whose document numbers are the passages' numbers: one segment."""
    _fill(SyncedStorage(str(folder)).create(), passages)
    for lock in folder.glob("*_WRITELOCK"):
        lock.unlink()
    sync_folder(folder)


def in_memory(postings: Postings) -> FileIndex:
    """The same index of a segment in memory."""
    terms: list[list[str]] = [[] for _ in range(postings.size)]
    for term, column in postings.terms.items():
        for entry in range(int(postings.indptr[column]), int(postings.indptr[column + 1])):
            terms[postings.passages[entry]] += [term] * int(postings.frequencies[entry])
    return _fill(MemoryStorage(), terms)


def _fill(storage: FileStorage | RamStorage, passages: Iterable[Sequence[str]]) -> FileIndex:
    index = storage.create_index(Schema(**{FIELD: TermsField()}))
    # Assembling a compound file would write everything twice.
    writer = index.writer(limitmb=POOL_MB, compound=False)
    try:
        for terms in passages:
            writer.add_document(**{FIELD: terms})
        writer.commit()
    except BaseException:
        with suppress(Exception):  # of a commit that failed, files may be closed already
            writer.cancel()  # a failed writer would keep the write lock
        raise
    return index


def open_index(folder: Path) -> FileIndex:
    """Opens an index, which unpickles: only where the manifest has been verified."""
    return FileStorage(str(folder), readonly=True).open_index()


def compile_postings(index: FileIndex, passages: int) -> Postings:
    """Read every posting of an index into flat arrays. The reader is closed afterwards."""
    terms: dict[str, int] = {}
    sizes = array("q", [0])
    ids = array("I")
    weights = array("f")
    reader = index.reader()
    try:
        for text in reader.lexicon(FIELD) if FIELD in reader.indexed_field_names() else ():
            terms[text.decode()] = len(terms)
            matcher = reader.postings(FIELD, text)
            while matcher.is_active():
                _take_block(matcher, ids, weights)
            sizes.append(len(ids))
    finally:
        reader.close()
    numbers = np.frombuffer(ids, dtype=np.uint32) if ids else np.zeros(0, np.uint32)
    frequencies = np.asarray(weights, dtype=np.float32).astype(np.uint32)
    lengths = np.bincount(numbers, weights=frequencies, minlength=passages)
    return Postings(
        terms=terms,
        indptr=np.asarray(sizes, dtype=np.int64),
        passages=numbers.copy(),
        frequencies=frequencies,
        lengths=lengths.astype(np.uint32),
    )


def _take_block(matcher: Any, ids: array[int], weights: array[float]) -> None:
    """Copy a whole block of postings and go to the next: ten times as fast as one by one."""
    matcher.id()
    matcher.weight()
    ids.extend(matcher._ids)
    weights.extend(matcher._weights)
    if hasattr(matcher, "_next_block"):
        matcher._next_block()
    else:  # postings that stand within the term's own entry
        matcher._i = len(matcher._ids)


@dataclass(frozen=True)
class LuceneBM25(WeightingModel):  # type: ignore[misc]
    """BM25 with Lucene's idf: sums idf(t) tf / (tf + k1 (1 - b + b |d| / avg)).

    `weights` holds the idf of each query term over all segments (times its count in the query),
    which one Whoosh index cannot know.
    `lengths` are the exact lengths: Whoosh keeps them in one byte, which rounds from 11 terms on.
    """

    weights: Mapping[str, float]
    lengths: NDArray[np.uint32]
    average_length: float

    def scorer(
        self, searcher: WhooshSearcher, fieldname: str, text: bytes, qf: int = 1
    ) -> LuceneBM25Scorer:
        """The scorer of one term."""
        return LuceneBM25Scorer(self, self.weights[text.decode()])


@dataclass(frozen=True)
class LuceneBM25Scorer(BaseScorer):  # type: ignore[misc]
    """Scores the current posting of a matcher."""

    model: LuceneBM25
    weight: float

    def score(self, matcher: Matcher) -> float:
        """What the term adds to the passage that the matcher stands on."""
        tf = float(matcher.weight())
        length = float(self.model.lengths[matcher.id()])
        # Single precision as in the compiled columns, so that both round alike.
        part = np.float32(tf / (tf + K1 * (1.0 - B + B * length / self.model.average_length)))
        return self.weight * float(part)


class WhooshScorer:
    """Scores passages with Whoosh's own matchers over an open reader, one query at a time.

    A reader's matchers move one file position, so threads take turns. The reader is closed with
    the scorer: snapshots share it, and none of them is the last.
    """

    def __init__(
        self, index: FileIndex, lengths: NDArray[np.uint32], average_length: float
    ) -> None:
        self._reader: IndexReader = index.reader()
        self._turn = threading.Lock()
        weakref.finalize(self, self._reader.close)
        self._lengths = lengths
        self._average = average_length if average_length > 0 else 1.0

    def top(self, weights: Mapping[str, float], k: int, allowed: Mask = NO_MASK) -> Ranked:
        """The k best passages for `weights` (term -> idf times its count in the query)."""
        ranked = sorted(
            (-np.float32(score), passage)
            for passage, score in self._scores(weights).items()
            if passes(allowed, passage)
        )[:k]
        return (
            np.array([passage for _, passage in ranked], dtype=np.int64),
            np.array([-score for score, _ in ranked], dtype=np.float32),
        )

    def of(self, weights: Mapping[str, float], passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """The scores of these passages, 0 where one has no query term. [passages]"""
        scores = self._scores(weights)
        return np.array([scores.get(int(passage), 0.0) for passage in passages], dtype=np.float32)

    def _scores(self, weights: Mapping[str, float]) -> dict[int, float]:
        weighting = LuceneBM25(weights, self._lengths, self._average)
        query = Or([Term(FIELD, term) for term in weights])
        scores: dict[int, float] = {}
        with self._turn:
            matcher = query.matcher(WhooshSearcher(self._reader, weighting=weighting))
            while matcher.is_active():
                scores[matcher.id()] = matcher.score()
                matcher.next()
        return scores
