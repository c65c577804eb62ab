"""Searching and analysing, as services. They know no HTTP."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from app.inference.admission import Permits
from app.inference.indexer import Indexer
from app.inference.pipeline import Pipeline
from app.inference.retrieval import (
    UNREADABLE,
    SearchOptions,
    filter_of,
    find,
    method_by,
    method_for,
)
from app.inference.snapshot import Snapshots
from app.predict.inputs import text_input
from app.problems import Problem, invalid
from app.schemas.documents import AnalyzeRequest, SearchRequest
from app.settings import Settings
from index_data.documents import canonical_language
from index_data.search.searcher import Hit
from index_data.text import analysis


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParts:
    """The parts of the server that searching and analysing use."""

    settings: Settings
    permits: Permits
    snapshots: Snapshots
    indexer: Indexer
    pipeline: Pipeline


async def search(parts: SearchParts, request: SearchRequest) -> dict[str, Any]:
    """The answer of ``POST /search``. Raises :class:`Problem`."""
    began = time.perf_counter()
    query = text_input(request.query, "#/query", parts.settings.max_input_chars)
    if isinstance(query, Problem):
        raise query
    lang = language(request.lang)
    where = filter_of(request.filter, "#/filter")
    if request.min_sequence is not None:
        await parts.indexer.reach(request.min_sequence, "#/min_sequence")
    with parts.permits.take():
        snapshot = parts.snapshots.now()
        method, degraded = method_for(snapshot, request.method, "method")
        vector = None
        if method != "bm25":
            engine = snapshot.model().engine
            with engine.use():
                read = await asyncio.wrap_future(engine.read(request.query, None))
            vector = read.state.vector
            if method_by(method, request.method, read.state) != method:
                method, degraded = "bm25", [*degraded, UNREADABLE]
        options = SearchOptions(
            k=request.k,
            method=method,
            lang=lang,
            filter=where,
            exclude_ids=request.exclude_ids,
        )
        hits = await find(parts.pipeline.pool, snapshot, request.query, vector, options)
    shown = request.query if request.highlight else None
    return {
        "hits": [hit_json(hit, shown, snapshot.index().analyzer) for hit in hits],
        "method": method,
        "generation": snapshot.index().generation,
        "sequence": snapshot.index().sequence,
        "timing_ms": round(1000 * (time.perf_counter() - began), 3),
        "degraded": [*snapshot.degraded, *degraded],
    }


def hit_json(hit: Hit, query: str | None, analyzer: analysis.Analyzer) -> dict[str, Any]:
    """One hit; with ``query``, the spans of its text that match."""
    lang = hit.document.lang
    places = [] if query is None else analysis.matches(hit.text, query, lang, analyzer)
    return {
        "doc_id": hit.doc_id,
        "rank": hit.rank,
        "score": hit.score,
        "scores": hit.scores,
        "text": hit.text,
        "start": hit.start,
        "end": hit.end,
        "title": hit.document.title,
        "labels": hit.document.labels,
        "metadata": hit.document.metadata,
        "highlights": [{"start": start, "end": end} for start, end in places],
    }


async def analyze(parts: SearchParts, request: AnalyzeRequest) -> dict[str, Any]:
    """The answer of ``POST /analyze``. Raises ``validation``."""
    most = parts.settings.max_input_chars
    if len(request.text) > most:
        raise invalid("#/text", f"at most {most} characters")
    lang = language(request.lang)
    searcher = parts.snapshots.now().searcher
    analyzer = analysis.STANDARD if searcher is None else searcher.analyzer
    loop = asyncio.get_running_loop()
    with parts.permits.take():
        detected, tokens = await loop.run_in_executor(
            parts.pipeline.pool, analysis.analyze, request.text, lang, analyzer
        )
    warnings = [] if analysis.supported(lang) else ["no analyzer for this language: no stemming"]
    return {
        "lang": detected,
        "analyzer": analyzer.name,
        "tokens": [
            {"text": t.text, "start": t.start, "end": t.end, "stop": t.stop, "stem": t.stem}
            for t in tokens
        ],
        "warnings": warnings,
    }


def language(tag: str | None) -> str | None:
    """A language tag in its usual case. Raises ``validation`` for a malformed one."""
    if tag is None:
        return None
    known = canonical_language(tag)
    if known is None:
        raise invalid("#/lang", "must be a BCP 47 language tag, such as 'en' or 'zh-Hant'")
    return known
