"""The training set of a label field, frozen (`app.training.frozen_rows`): with vectors, and with
feedback.

passages.jsonl  with "label"
vectors.npy     their vectors, half precision [passages, dim]; zeros where there is none
rows.jsonl      {"id", "text", "label", "hits"}; of several labels, "label" is a list
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.training.frozen_rows import (
    FEEDBACK,
    PASSAGES,
    ROWS,
    SET,
    Encode,
    Passages,
    Query,
    Retrieval,
    SetInfo,
    documents,
    lines,
    read_info,
    write_info,
)
from app.worker import JobRefused, Reporter
from index_data.documents import Document, near_duplicate
from index_data.search.searcher import Hit, Searcher
from index_data.text.similarity import Known
from model.labels.memory import Retrieved
from model.training.labels import Row

MULTILABEL_FROM: Final = 0.1  # share of lists that makes a field one of several labels

__all__ = ["FEEDBACK", "SET", "SetInfo", "documents", "freeze", "load", "load_feedback"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """The documents with a label of a field; ``lists``: how many with a list were left out."""

    documents: list[Document]
    lists: int
    multilabel: bool


def labelled(documents: Iterator[Document], field: str) -> Labelled:
    """The documents to learn a field from.

    Where at least a tenth of them carry lists, the field is one of several labels, and a single
    label is a list of one. Fewer are taken for mistakes and left out.
    """
    rows = [document for document in documents if document.labels.get(field) is not None]
    single = [document for document in rows if isinstance(document.labels[field], str)]
    lists = len(rows) - len(single)
    if lists and lists >= MULTILABEL_FROM * len(rows):
        return Labelled(rows, 0, multilabel=True)
    return Labelled(single, lists, multilabel=False)


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
    feedback_items: Sequence[Document] = (),
) -> SetInfo:
    """Retrieve once for each labelled document and write the set.

    ``learned``: what is learned from; ``None``: the documents of the index themselves.
    ``opinions``: labelled texts to measure on too, without those that a row has, or nearly has.
    A row never finds itself or a near-duplicate. ``fits``: the index's vectors are of this
    encoder. Raises :class:`JobRefused` on fewer than two labels.
    """
    found = labelled(learned or searcher.documents(), field)
    learned_from, multilabel = found.documents, found.multilabel
    counts = Counter(name for document in learned_from for name in names_of(document, field))
    check_labels(field, counts)
    method = searcher.default_method if fits else "bm25"
    retrieval = Retrieval(searcher, k, method, encode if fits else None)
    queries = [_query(document, field, multilabel) for document in learned_from]
    known = Known(document.text for document in learned_from)
    asked = [_query(one, field, multilabel) for one in feedback_items if not known.near(one.text)]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / PASSAGES).open("w", encoding="utf-8") as passages,
        (folder / ROWS).open("w", encoding="utf-8") as rows,
        (folder / FEEDBACK).open("w", encoding="utf-8") as said,
    ):
        writer = Passages(passages, lambda hit: _label_of(hit, field))
        dropped = 0
        for query, hits, near in retrieval.each(queries, reporter):
            dropped += len(near)
            rows.write(writer.row(query, hits))
        for query, hits, _ in retrieval.each(asked):
            said.write(writer.row(query, hits))
    np.save(folder / "vectors.npy", writer.vectors())
    info = SetInfo(
        field=field,
        k=k,
        method=method,
        generation=searcher.generation,
        sequence=searcher.sequence,
        rows=len(learned_from),
        labels=dict(counts.most_common()),
        lists=found.lists,
        dropped=dropped,
        multilabel=multilabel,
    )
    write_info(folder, info)
    return info


def _query(document: Document, field: str, multilabel: bool) -> Query:
    label = names_of(document, field) if multilabel else document.labels[field]
    row = {"text": document.text, "label": label}
    same = partial(_near, document.text)
    return Query(document.id, document.text, row, same, document.lang)


def _near(text: str, other: Document) -> bool:
    return near_duplicate(text, other.text)


def _label_of(hit: Hit, field: str) -> dict[str, Any]:
    return {"label": hit.document.labels.get(field)}


def load(folder: Path) -> tuple[SetInfo, list[Row]]:
    """A frozen set, whole. Raises ``FileNotFoundError`` when the folder holds none."""
    return read_info(folder), _read(folder, ROWS)


def load_feedback(folder: Path) -> list[Row]:
    """The recorded feedback of a frozen set, to measure on."""
    return _read(folder, FEEDBACK) if (folder / FEEDBACK).is_file() else []


def _read(folder: Path, name: str) -> list[Row]:
    passages = [*lines(folder / PASSAGES)]
    vectors = np.load(folder / "vectors.npy", allow_pickle=False).astype(np.float32)
    known = vectors.any(axis=1) if vectors.size else np.zeros(len(passages), dtype=bool)

    def hit(number: int, score: float) -> Retrieved:
        passage = passages[number]
        vector = vectors[number] if known[number] else None
        title, text, label = passage["title"], passage["text"], passage["label"]
        return Retrieved(title, text, label, score, vector, doc_id=passage["doc_id"])

    rows = []
    for raw in lines(folder / name):
        hits = [hit(number, score) for number, score in raw["hits"]]
        sources = [passages[number]["doc_id"] for number, _ in raw["hits"]]
        rows.append(Row(raw["id"], raw["text"], raw["label"], hits, sources))
    return rows
