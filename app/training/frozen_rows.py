"""Rows with retrieval already done, frozen into a folder: what all training sets share.

The reader never sees the retriever: each row holds its hits. A frozen set can be compared, kept and
replayed, and a training run that is resumed reads the very rows it began with.

    passages.jsonl  {"doc_id", "title", "text", ...}, each passage that was found, once
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
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from app.worker import Reporter
from index_data.documents import Document
from index_data.filters import Filter
from index_data.search.searcher import Hit, Searcher
from index_data.text.similarity import Known

SET: Final = "set.json"
ROWS: Final = "rows.jsonl"
PASSAGES: Final = "passages.jsonl"
FEEDBACK: Final = "feedback.jsonl"
ENCODED_AT_ONCE: Final = 64

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
About = Callable[[Hit], dict[str, Any]]


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
    lists: int  # documents left out since their value of the field is a list
    dropped: int
    left_out: int = 0
    multilabel: bool = False  # the field's values are lists, and the labels are independent


@dataclass(frozen=True, slots=True)
class Query:
    """A row that is retrieved for. ``row``: as it is kept; ``same``: what may not be evidence."""

    id: str
    text: str
    row: Mapping[str, Any]
    same: Callable[[Document], bool]
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How hits are found for rows. ``encode`` ``None``: by words alone."""

    searcher: Searcher
    k: int
    method: str
    encode: Encode | None = None
    filter: Filter | None = None
    passages: bool = False

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
            if query.same(other):
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
        found = self._numbers.get(key)
        if found is not None:
            return found
        number = self._numbers[key] = len(self._numbers)
        line: dict[str, Any] = {"doc_id": hit.doc_id, "title": hit.document.title, "text": hit.text}
        self._file.write(json.dumps(line | self._about(hit), ensure_ascii=False) + "\n")
        self._vectors.append(None if hit.vector is None else hit.vector.astype(np.float16))
        return number

    def row(self, query: Query, hits: Sequence[Hit]) -> str:
        """A line of ``rows.jsonl``."""
        found = [[self.number(hit), hit.score] for hit in hits]
        return json.dumps({"id": query.id, **query.row, "hits": found}, ensure_ascii=False) + "\n"

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
    left_out: int = 0,
    feedback_items: Sequence[Query] = (),
) -> SetInfo:
    """Retrieve once for each row and write the set, without vectors.

    ``opinions``: rows to measure on too, without those whose text a row has, or nearly has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dropped = 0
    with (
        (folder / PASSAGES).open("w", encoding="utf-8") as passages,
        (folder / ROWS).open("w", encoding="utf-8") as rows,
        (folder / FEEDBACK).open("w", encoding="utf-8") as said,
    ):
        writer = Passages(passages, about)
        for query, hits, near in retrieval.each(queries, reporter):
            dropped += len(near)
            rows.write(writer.row(query, hits))
        known = Known(query.text for query in queries)
        fresh = [one for one in feedback_items if not known.near(one.text)]
        for query, hits, _ in retrieval.each(fresh):
            said.write(writer.row(query, hits))
    info = SetInfo(
        field=field,
        k=retrieval.k,
        method=retrieval.method,
        generation=retrieval.searcher.generation,
        sequence=retrieval.searcher.sequence,
        rows=len(queries),
        labels=dict(labels),
        lists=0,
        dropped=dropped,
        left_out=left_out,
    )
    write_info(folder, info)
    return info


def feedback_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The recorded feedback of a frozen set; none where it was frozen before there was any."""
    if (folder / FEEDBACK).is_file():
        yield from lines(folder / FEEDBACK)


def write_info(folder: Path, info: SetInfo) -> None:
    """Mark a set as whole."""
    (folder / SET).write_text(json.dumps(asdict(info), ensure_ascii=False), encoding="utf-8")


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
