"""Questions with their paragraphs and retrieved passages, for the question-answering benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.data import rows
from benchmarks.peers.retrieval import temporary
from benchmarks.retrieval import index_of
from benchmarks.tools.vector_cache import CachedEncoder
from index_data.documents import Document, near_duplicate
from index_data.search.searcher import Searcher
from model.encoder.encoder import Encoder
from model.qa.evidence import PassageText
from model.qa.rows import SpanRow

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


def training_rows(
    encoder: Encoder,
    name: str = "squad",
    only: Callable[[str], bool] = bool,
    *,
    words: bool = False,
) -> list[SpanRow]:
    """The rows that a head for a set is trained on, each with what the server finds for it.

    Found among the paragraphs of all rows. Its own paragraph stays among them (the head is
    calibrated by whether it is there), near duplicates of it do not. `only`: rows of which
    paragraphs; `words`: found by BM25 alone, without vectors.
    """
    raw = [row for part in TRAINED_ON[name] for row in rows(part)]
    contexts = list(dict.fromkeys(r["context"] for r in raw))
    number = {context: str(i) for i, context in enumerate(contexts)}
    documents = [Document(number[context], context) for context in contexts]
    wanted = [r for r in raw if only(r["context"])]
    cached = None if words else CachedEncoder(encoder, f"qa-{name}-train")
    done = []
    with temporary() as folder:
        store, searcher = index_of(documents, Path(folder), cached)
        questions = [r["question"] for r in wanted]
        asked = [None] * len(wanted) if cached is None else cached.encode(questions)
        methods = ["bm25"] * len(wanted) if words else served(searcher, encoder, questions)
        for r, vector, method in zip(wanted, asked, methods, strict=True):
            own = number[r["context"]]
            found = searcher.search(r["question"], k=HITS, method=method, query_vector=vector)
            hits = [
                PassageText(hit.text)
                for hit in found
                if hit.doc_id == own or not near_duplicate(hit.document.text, r["context"])
            ]
            answers = [(a["text"], a["start"]) for a in r["answers"]]
            done.append(SpanRow(r["id"], r["question"], r["context"], answers, hits))
        store.close()
    return done


def served(searcher: Searcher, encoder: Encoder, questions: Sequence[str]) -> list[str]:
    """How the server looks for each question: by words alone where it cannot read it."""
    ids = encoder.tokenize(questions)
    return [searcher.default_method if encoder.reads(found) else "bm25" for found in ids]
