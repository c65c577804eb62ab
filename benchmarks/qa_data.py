"""Questions with their paragraphs and retrieved passages, for the question-answering benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import rows
from benchmarks.retrieval import index_of
from benchmarks.retrieval_peers import temporary
from index_data.documents import Document, near_duplicate
from model.memory import Retrieved
from model.span_rows import SpanRow

HITS = 8
SETS = {
    "squad": ("squad_v11/dev", "en"),
    "drcd": ("drcd/dev", "zh"),
    "cmrc2018": ("cmrc2018/dev", "zh"),
}
"""What is asked about, and by whose rules its answers are compared."""
TRAINED_ON = {
    "squad": ("squad_v11/train_subset", "squadshifts/reddit"),
    "drcd": ("drcd/dev",),
    "cmrc2018": ("cmrc2018/dev", "cmrc2018/trial"),
}
"""The Chinese sets have no training part: a head learns from one and is asked about the other."""


def share(text: str) -> float:
    """0 to 1, by hash."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def training_rows(name: str = "squad") -> list[SpanRow]:
    """The rows that a head for a set is trained on, each with BM25's best passages.

    Found among the paragraphs of all rows. Its own paragraph stays among them (the head is
    calibrated by whether it is there), near duplicates of it do not.
    """
    return with_hits([row for part in TRAINED_ON[name] for row in rows(part)])


def with_hits(raw: Sequence[dict[str, Any]]) -> list[SpanRow]:
    contexts = list(dict.fromkeys(r["context"] for r in raw))
    number = {context: str(i) for i, context in enumerate(contexts)}
    documents = [Document(number[context], context) for context in contexts]
    done = []
    with temporary() as folder:
        store, searcher = index_of(documents, Path(folder), None, passage_words=100)
        for r in raw:
            own = number[r["context"]]
            hits = [
                Retrieved(None, hit.text, None, hit.score, None)
                for hit in searcher.search(r["question"], k=HITS, method="bm25")
                if hit.doc_id == own or not near_duplicate(hit.document.text, r["context"])
            ]
            answers = [(a["text"], a["start"]) for a in r["answers"]]
            done.append(SpanRow(r["id"], r["question"], r["context"], answers, hits))
        store.close()
    return done
