"""The peers of the retrieval benchmark: other engines over the same documents."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import tantivy
from whoosh.analysis import StemmingAnalyzer
from whoosh.fields import ID, TEXT, Schema
from whoosh.index import create_in
from whoosh.qparser import OrGroup, QueryParser

from index_data.segment.postings import K1, B
from index_data.text import analysis

Search = Callable[[str], list[str]]
"""A query to the ids of the ten best documents."""

_WORD = re.compile(r"\w+")
K = 10


def bm25s_search(ids: Sequence[str], texts: Sequence[str]) -> Search:
    """bm25s on Footnote's own tokens, with the same formula and parameters, compiled by numba."""
    engine = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba")
    engine.index([analysis.terms(text) for text in texts], show_progress=False)

    def search(query: str) -> list[str]:
        terms = analysis.query_terms(query)
        if not terms:
            return []
        found, scores = engine.retrieve([terms], k=min(K, len(ids)), show_progress=False)
        pairs = zip(found[0], scores[0], strict=True)
        return [ids[int(number)] for number, score in pairs if score > 0]

    return search


def whoosh_search(ids: Sequence[str], texts: Sequence[str], folder: Path) -> Search:
    """Whoosh as it comes: its stemming analyzer, its BM25F, its parser with OR."""
    schema = Schema(id=ID(stored=True), text=TEXT(analyzer=StemmingAnalyzer()))
    index = create_in(str(folder), schema)
    writer = index.writer(limitmb=256)
    for name, text in zip(ids, texts, strict=True):
        writer.add_document(id=name, text=text)
    writer.commit()
    searcher = index.searcher()
    parser = QueryParser("text", schema, group=OrGroup)

    def search(query: str) -> list[str]:
        parsed = parser.parse(" ".join(_WORD.findall(query.lower())))
        return [hit["id"] for hit in searcher.search(parsed, limit=K)]

    return search


def tantivy_search(ids: Sequence[str], texts: Sequence[str]) -> Search:
    """Tantivy with its English stemmer, in memory."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("text", tokenizer_name="en_stem")
    index = tantivy.Index(builder.build())
    writer = index.writer(heap_size=200_000_000, num_threads=1)
    for name, text in zip(ids, texts, strict=True):
        writer.add_document(tantivy.Document(id=name, text=text))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(query: str) -> list[str]:
        words = " ".join(_WORD.findall(query.lower()))
        if not words:
            return []
        hits = searcher.search(index.parse_query(words, ["text"]), K).hits
        return [searcher.doc(address)["id"][0] for _, address in hits]

    return search


def temporary() -> tempfile.TemporaryDirectory[str]:
    """A folder for one run."""
    return tempfile.TemporaryDirectory(prefix="footnote-benchmark-")
