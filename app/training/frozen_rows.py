"""Rows with retrieval already done, frozen into a folder: what all training sets share.

The reader never sees the retriever: each row holds its hits. A frozen set can be compared, kept and
replayed, and a training run that is resumed reads the very rows it began with.

    passages.jsonl  {"doc_id", "title", "text", ...}, each passage that was found, once
    vectors.npy     of label fields: their vectors, half precision [passages, dim]; 0: there is none
    rows.jsonl      {"id", ..., "hits": [[passage, score], ...]}
    feedback.jsonl  recorded feedback in the same shape: never trained on, only measured on
    set.json        what it was made from; written last, so that it marks a whole set
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.worker import Reporter
from index_data.documents import Document, near_duplicate
from index_data.filters import Filter
from index_data.search.searcher import Hit, Searcher
from index_data.text.similarity import Known

SET: Final = "set.json"
ROWS: Final = "rows.jsonl"
PASSAGES: Final = "passages.jsonl"
FEEDBACK: Final = "feedback.jsonl"
VECTORS: Final = "vectors.npy"
ENCODED_AT_ONCE: Final = 64

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
About = Callable[[Hit], dict[str, Any]]
P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class SetInfo:
    """What a frozen set was made from. ``dropped``: near-duplicates that were left out of hits;
    ``left_out``: rows that nothing can be learned from.
    """

    field: str
    k: int
    method: str
    generation: int
    sequence: int
    rows: int
    labels: dict[str, int]
    lists: int = 0  # documents left out since their value of the field is a list
    dropped: int = 0
    left_out: int = 0
    multilabel: bool = False  # the field's values are lists, and the labels are independent


@dataclass(frozen=True, slots=True)
class Query:
    """A row that is retrieved for. ``row``: as it is written.

    ``same``: whether a document may not be evidence for it; ``None``: near-duplicates of its text.
    """

    id: str
    text: str
    row: Mapping[str, Any]
    lang: str | None = None
    same: Callable[[Document], bool] | None = None

    def is_same(self, other: Document) -> bool:
        """Whether a document is the row again."""
        if self.same is not None:
            return self.same(other)
        return near_duplicate(self.text, other.text)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How hits are found for rows. ``encode`` ``None``: by words alone."""

    searcher: Searcher
    k: int
    method: str
    encode: Encode | None = None
    filter: Filter | None = None
    passages: bool = False

    @classmethod
    def by_default(
        cls,
        searcher: Searcher,
        k: int,
        encode: Encode,
        *,
        filter: Filter | None,
        passages: bool = False,
    ) -> Retrieval:
        """As the server retrieves: by words alone where the index has no vectors that fit.

        ``filter``: the documents that are evidence.
        """
        if not searcher.has_vectors:
            return cls(searcher, k, "bm25", filter=filter, passages=passages)
        method = searcher.default_method
        return cls(searcher, k, method, encode, filter=filter, passages=passages)

    def each(
        self, queries: Sequence[Query], reporter: Reporter | None = None
    ) -> Iterator[tuple[Query, list[Hit], set[str]]]:
        """Every row with its hits, and the ids of what stood in their way."""
        rest, done = iter(queries), 0
        while batch := list(islice(rest, ENCODED_AT_ONCE)):
            texts = [query.text for query in batch]
            vectors = [None] * len(batch) if self.encode is None else self.encode(texts)
            for query, vector in zip(batch, vectors, strict=True):
                if reporter is not None:
                    reporter.progress(done, len(queries), "retrieve")
                yield query, *self._hits(query, vector)
                done += 1

    def _hits(self, query: Query, vector: NDArray[np.float32] | None) -> tuple[list[Hit], set[str]]:
        near: set[str] = set()

        def same(other: Document) -> bool:
            if query.is_same(other):
                near.add(other.id)
                return True
            return False

        hits = self.searcher.search(
            query.text,
            k=self.k,
            method=self.method,
            lang=query.lang,
            filter=self.filter,
            query_vector=vector,
            exclude_ids=[query.id],
            exclude=same,
            passages=self.passages,
        )
        return hits, near


class Passages:
    """Each passage that was found, written once and known by its number.

    ``about``: what is kept of a hit beside its document, title and text.
    """

    def __init__(self, file: TextIO, about: About = lambda hit: {}) -> None:
        self._file = file
        self._about = about
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._vectors: list[NDArray[np.float16] | None] = []

    def number(self, hit: Hit) -> int:
        """The number of a passage, which is written down when it is new."""
        key = (hit.doc_id, hit.start, hit.end)
        if key in self._numbers:
            return self._numbers[key]
        number = self._numbers[key] = len(self._numbers)
        line: dict[str, Any] = {"doc_id": hit.doc_id, "title": hit.document.title, "text": hit.text}
        self._file.write(json.dumps(line | self._about(hit), ensure_ascii=False) + "\n")
        self._vectors.append(None if hit.vector is None else hit.vector.astype(np.float16))
        return number

    def row(self, query: Query, hits: Sequence[Hit]) -> str:
        """A line of ``rows.jsonl``."""
        numbers = [[self.number(hit), hit.score] for hit in hits]
        return json.dumps({"id": query.id, **query.row, "hits": numbers}, ensure_ascii=False) + "\n"

    def vectors(self) -> NDArray[np.float16]:
        """Of all passages, [passages, dim]; zeros where there is none."""
        dim = next((len(v) for v in self._vectors if v is not None), 0)
        out = np.zeros((len(self._vectors), dim), dtype=np.float16)
        for number, vector in enumerate(self._vectors):
            if vector is not None:
                out[number] = vector
        return out


def freeze_rows(
    retrieval: Retrieval,
    folder: Path,
    queries: Sequence[Query],
    reporter: Reporter,
    *,
    field: str,
    labels: Mapping[str, int],
    about: About = lambda hit: {},
    vectors: bool = False,
    feedback_items: Sequence[Query] = (),
    lists: int = 0,
    left_out: int = 0,
    multilabel: bool = False,
) -> SetInfo:
    """Retrieve once for each row and write the set; ``vectors``: with those of the passages.

    ``feedback_items``: rows to measure on too, without those whose text a row has, or nearly has.
    The others: see `SetInfo`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dropped = 0
    known = Known(query.text for query in queries)
    fresh = [one for one in feedback_items if not known.near(one.text)]
    with (
        (folder / PASSAGES).open("w", encoding="utf-8") as passages,
        (folder / ROWS).open("w", encoding="utf-8") as rows,
        (folder / FEEDBACK).open("w", encoding="utf-8") as feedback,
    ):
        numbered = Passages(passages, about)
        for query, hits, near in retrieval.each(queries, reporter):
            dropped += len(near)
            rows.write(numbered.row(query, hits))
        for query, hits, _ in retrieval.each(fresh):
            feedback.write(numbered.row(query, hits))
    if vectors:
        np.save(folder / VECTORS, numbered.vectors())
    info = SetInfo(
        field=field,
        k=retrieval.k,
        method=retrieval.method,
        generation=retrieval.searcher.generation,
        sequence=retrieval.searcher.sequence,
        rows=len(queries),
        labels=dict(labels),
        lists=lists,
        dropped=dropped,
        left_out=left_out,
        multilabel=multilabel,
    )
    # Last, so that it marks a whole set.
    (folder / SET).write_text(json.dumps(asdict(info), ensure_ascii=False), encoding="utf-8")
    return info


def load_rows(
    folder: Path,
    passage: Callable[[dict[str, Any]], P],
    row: Callable[[dict[str, Any], list[tuple[P, float]]], R],
) -> tuple[list[R], list[R]]:
    """The rows of a frozen set, and its recorded feedback (none where it is from before there was).

    ``passage`` reads a passage, with its ``vector`` where there are any; ``row`` a row with its
    hits, each with its score.
    """
    raw = [*lines(folder / PASSAGES)]
    if (folder / VECTORS).is_file():
        vectors = np.load(folder / VECTORS, allow_pickle=False).astype(np.float32)
        known = vectors.any(axis=1) if vectors.size else np.zeros(len(raw), dtype=bool)
        for number, one in enumerate(raw):
            one["vector"] = vectors[number] if known[number] else None
    passages = [passage(one) for one in raw]

    def read(name: str) -> list[R]:
        if name == FEEDBACK and not (folder / name).is_file():
            return []
        return [
            row(one, [(passages[n], s) for n, s in one["hits"]]) for one in lines(folder / name)
        ]

    return read(ROWS), read(FEEDBACK)


def read_info(folder: Path) -> SetInfo:
    """What a set was made from. Raises ``FileNotFoundError`` when the folder holds none."""
    return SetInfo(**json.loads((folder / SET).read_text(encoding="utf-8")))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a line."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def documents(folder: Path) -> set[str]:
    """The ids of all documents in a frozen set: rows, and what was found for them."""
    rows = {str(row["id"]) for row in lines(folder / ROWS)}
    return rows | {str(passage["doc_id"]) for passage in lines(folder / PASSAGES)}
