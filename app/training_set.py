"""A training set with retrieval already done, frozen into a folder.

The reader never sees the retriever: each row holds its hits. A frozen set can be compared, kept and
replayed, and a training run that is resumed reads the very rows it began with.

    passages.jsonl  {"doc_id", "title", "text", "label"}, each passage that was found, once
    vectors.npy     their vectors, half precision [passages, dim]; zeros where there is none
    feedback.jsonl  recorded feedback in the shape of rows.jsonl: never trained on, only measured on
    rows.jsonl      {"id", "text", "label", "hits": [[passage, score], ...]}
    set.json        what it was made from; written last, so that it marks a whole set
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from app.worker import JobRefused, Reporter
from index_data.documents import Document, near_duplicate, normalise
from index_data.searcher import Hit, Searcher
from model.network import Retrieved
from model.training import Row

SET: Final = "set.json"
FEEDBACK: Final = "feedback.jsonl"
ENCODED_AT_ONCE: Final = 64
SEVERAL_FROM: Final = 0.1  # share of lists that makes a field one of several labels

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class SetInfo:
    """What a frozen set was made from. ``dropped``: near-duplicates that were left out of hits."""

    field: str
    k: int
    method: str
    generation: int
    sequence: int
    rows: int
    labels: dict[str, int]
    lists: int  # documents left out since their value of the field is a list
    dropped: int
    several: bool = False  # the field's values are lists, and the labels are independent


@dataclass(frozen=True, slots=True)
class Labelled:
    """The documents with a label of a field; ``lists``: how many with a list were left out."""

    documents: list[Document]
    lists: int
    several: bool


def labelled(documents: Iterator[Document], field: str) -> Labelled:
    """The documents to learn a field from.

    Where at least a tenth of them carry lists, the field is one of several labels, and a single
    label is a list of one. Fewer are taken for mistakes and left out.
    """
    rows = [document for document in documents if document.labels.get(field) is not None]
    single = [document for document in rows if isinstance(document.labels[field], str)]
    lists = len(rows) - len(single)
    if lists and lists >= SEVERAL_FROM * len(rows):
        return Labelled(rows, 0, several=True)
    return Labelled(single, lists, several=False)


def names_of(document: Document, field: str) -> list[str]:
    """A document's labels of a field, each once, however many."""
    value = document.labels[field]
    return [value] if isinstance(value, str) else [*dict.fromkeys(value)]


def check_labels(field: str, counts: Counter[str]) -> None:
    """Refuse what no head can be trained on. Raises :class:`JobRefused`."""
    if not counts:
        raise JobRefused(f"No document has a label for the field {field!r}.")
    if len(counts) < 2:
        raise JobRefused(
            f"All {counts.total()} labelled documents have the same label for the field "
            f"{field!r}: at least two labels are needed."
        )


def freeze(
    searcher: Searcher,
    folder: Path,
    *,
    field: str,
    k: int,
    encode: Encode,
    fits: bool,
    reporter: Reporter,
    learned: Iterator[Document] | None = None,
    opinions: Sequence[Document] = (),
) -> SetInfo:
    """Retrieve once for each labelled document and write the set.

    ``learned``: what is learned from; ``None``: the documents of the index themselves.
    ``opinions``: labelled texts to measure on too, without those that a row has, or nearly has.
    A row never finds itself or a near-duplicate. ``fits``: the index's vectors are of this
    encoder. Raises :class:`JobRefused` on fewer than two labels.
    """
    found = labelled(learned or searcher.documents(), field)
    documents = found.documents
    counts = Counter(name for document in documents for name in names_of(document, field))
    check_labels(field, counts)
    method = searcher.default_method if fits else "bm25"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "passages.jsonl").open("w", encoding="utf-8") as passages,
        (folder / "rows.jsonl").open("w", encoding="utf-8") as rows,
    ):
        writer = _Passages(passages, field, several=found.several)
        dropped = done = 0
        for batch in _batches(documents):
            vectors = encode([d.text for d in batch]) if fits else [None] * len(batch)
            for document, vector in zip(batch, vectors, strict=True):
                reporter.progress(done, len(documents), "retrieve")
                hits, near = _hits(searcher, document, vector, k, method)
                dropped += len(near)
                rows.write(writer.row(document, hits))
                done += 1
        trained = {document.id for document in documents}
        texts = {normalise(document.text) for document in documents}
        apart = [] if learned is None else documents  # rows that no search of the index finds
        with (folder / FEEDBACK).open("w", encoding="utf-8") as said:
            for one in opinions:
                if normalise(one.text) in texts:
                    continue
                vector = encode([one.text])[0] if fits else None
                hits, near = _hits(searcher, one, vector, k, method)
                if not near & trained and not any(near_duplicate(one.text, d.text) for d in apart):
                    said.write(writer.row(one, hits))
    np.save(folder / "vectors.npy", writer.vectors())
    info = SetInfo(
        field=field,
        k=k,
        method=method,
        generation=searcher.generation,
        sequence=searcher.sequence,
        rows=len(documents),
        labels=dict(counts.most_common()),
        lists=found.lists,
        dropped=dropped,
        several=found.several,
    )
    (folder / SET).write_text(json.dumps(asdict(info), ensure_ascii=False), encoding="utf-8")
    return info


def load(folder: Path) -> tuple[SetInfo, list[Row]]:
    """A frozen set, whole. Raises ``FileNotFoundError`` when the folder holds none."""
    info = SetInfo(**json.loads((folder / SET).read_text(encoding="utf-8")))
    return info, _read(folder, "rows.jsonl")


def load_feedback(folder: Path) -> list[Row]:
    """The recorded feedback of a frozen set, to measure on."""
    return _read(folder, FEEDBACK) if (folder / FEEDBACK).is_file() else []


def _read(folder: Path, name: str) -> list[Row]:
    passages = [json.loads(line) for line in _lines(folder / "passages.jsonl")]
    vectors = np.load(folder / "vectors.npy", allow_pickle=False).astype(np.float32)
    known = vectors.any(axis=1) if vectors.size else np.zeros(len(passages), dtype=bool)

    def hit(number: int, score: float) -> Retrieved:
        passage = passages[number]
        vector = vectors[number] if known[number] else None
        return Retrieved(passage["title"], passage["text"], passage["label"], score, vector)

    rows = []
    for line in _lines(folder / name):
        raw = json.loads(line)
        hits = [hit(number, score) for number, score in raw["hits"]]
        sources = [passages[number]["doc_id"] for number, _ in raw["hits"]]
        rows.append(Row(raw["id"], raw["text"], raw["label"], hits, sources))
    return rows


def documents(folder: Path) -> set[str]:
    """The ids of all documents in a frozen set: rows, and what was found for them."""
    rows = {str(json.loads(line)["id"]) for line in _lines(folder / "rows.jsonl")}
    return rows | {str(json.loads(line)["doc_id"]) for line in _lines(folder / "passages.jsonl")}


class _Passages:
    """Each passage that was found, written once and known by its number."""

    def __init__(self, file: TextIO, field: str, *, several: bool) -> None:
        self._file = file
        self._field = field
        self._several = several
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._vectors: list[NDArray[np.float16] | None] = []

    def number(self, hit: Hit) -> int:
        key = (hit.doc_id, hit.start, hit.end)
        found = self._numbers.get(key)
        if found is not None:
            return found
        number = self._numbers[key] = len(self._numbers)
        line: dict[str, Any] = {
            "doc_id": hit.doc_id,
            "title": hit.document.title,
            "text": hit.text,
            "label": hit.document.labels.get(self._field),
        }
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._vectors.append(None if hit.vector is None else hit.vector.astype(np.float16))
        return number

    def row(self, document: Document, hits: Sequence[Hit]) -> str:
        """A line of ``rows.jsonl``."""
        names = names_of(document, self._field)
        row = {
            "id": document.id,
            "text": document.text,
            "label": names if self._several else document.labels[self._field],
            "hits": [[self.number(hit), hit.score] for hit in hits],
        }
        return json.dumps(row, ensure_ascii=False) + "\n"

    def vectors(self) -> NDArray[np.float16]:
        dim = next((len(v) for v in self._vectors if v is not None), 0)
        out = np.zeros((len(self._vectors), dim), dtype=np.float16)
        for number, vector in enumerate(self._vectors):
            if vector is not None:
                out[number] = vector
        return out


def _hits(
    searcher: Searcher,
    document: Document,
    vector: NDArray[np.float32] | None,
    k: int,
    method: str,
) -> tuple[list[Hit], set[str]]:
    """The hits of one row, and the near-duplicates that stood in their way."""
    near: set[str] = set()

    def same(other: Document) -> bool:
        if near_duplicate(document.text, other.text):
            near.add(other.id)
            return True
        return False

    hits = searcher.search(
        document.text,
        k=k,
        method=method,
        lang=document.lang,
        query_vector=vector,
        exclude_ids=[document.id],
        exclude=same,
    )
    return hits, near


def _batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    rest = iter(documents)
    while batch := list(islice(rest, ENCODED_AT_ONCE)):
        yield batch


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from lines
