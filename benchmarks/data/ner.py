"""Rows for the benchmark of named entities: sentences with spans, and hits through the index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.data import rows
from index_data.documents import Document, near_duplicate
from index_data.search.searcher import Searcher
from index_data.segment.segment import segment_of
from index_data.segment.view import compiled, whole
from model.ner.evidence import TagHit
from model.ner.rows import TagRow

SETS = {
    "conll2003": ("train", "dev", "test", " "),
    "wnut17": ("train", "dev", "test", " "),
    "resume_ner": ("train", "dev", "test", ""),
    "msra_ner": ("train", "", "test", ""),
}


def sentence(
    tokens: Sequence[str], tags: Sequence[str], glue: str
) -> tuple[str, tuple[tuple[int, int, str], ...]]:
    """Text and spans of tokens in IOB2; an I- that continues nothing begins an entity."""
    text = ""
    spans: list[tuple[int, int, str]] = []
    last = "O"
    for token, tag in zip(tokens, tags, strict=True):
        start = len(text) + len(glue) * bool(text)
        text = f"{text}{glue if text else ''}{token}"
        if tag != "O":
            kind = tag[2:]
            if tag[0] == "I" and last == kind:
                spans[-1] = (spans[-1][0], len(text), kind)
            else:
                spans.append((start, len(text), kind))
        last = tag[2:] if tag != "O" else "O"
    return text, tuple(spans)


def read(name: str, split: str) -> list[TagRow]:
    """A split, without hits; sentences of nothing but white space are left out."""
    glue = SETS[name][3]
    found = []
    for i, raw in enumerate(rows(f"{name}/{split}")):
        text, spans = sentence(raw["tokens"], raw["tags"], glue)
        if text.strip():
            found.append(TagRow(f"{split}-{i}", text, spans))
    return found


@dataclass(slots=True)
class Labelled:
    """An index of labelled sentences, and the retrieval that `app.predict.ner` does in it."""

    searcher: Searcher
    entities: dict[str, tuple[tuple[int, int, str], ...]]
    dropped: int = 0

    @classmethod
    def of(cls, sentences: Sequence[TagRow]) -> Labelled:
        """BM25 alone: what finds names is the names."""
        documents = [Document(row.id, row.text) for row in sentences]
        segment = segment_of(documents, passage_words=200, average_length=1.0)
        length = float(segment.postings.lengths.mean())
        segment = segment_of(documents, passage_words=200, average_length=length)
        view = whole(segment, compiled(segment, length))
        searcher = Searcher([view], generation=1, sequence=1)
        return cls(searcher, {row.id: row.entities for row in sentences})

    def hits(self, row: TagRow, k: int) -> list[TagHit]:
        """The k best sentences; never the row itself or a near-duplicate."""

        def same(other: Document) -> bool:
            if other.id == row.id:
                return True
            near = near_duplicate(row.text, other.text)
            self.dropped += near
            return near

        found = self.searcher.search(row.text, k=k, method="bm25", exclude=same)
        return [TagHit(hit.text, self.entities[hit.doc_id], hit.score) for hit in found]

    def retrieve(self, some: Sequence[TagRow], k: int = 48) -> list[TagRow]:
        """The rows with their hits."""
        return [replace(row, hits=self.hits(row, k)) for row in some]


def share_of(sentences: Sequence[TagRow], share: float, seed: int) -> list[TagRow]:
    """A share of the sentences, by hash of seed and id."""
    return [row for row in sentences if _bucket(f"{seed}/{row.id}") < share]


def _bucket(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
