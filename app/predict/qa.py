"""Question answering behind ``POST /predict``: retrieve passages, read them, answer with the place.

Passages come from the index, with the request, or from the context given with the question. A long
context is cut on sentence borders; of more passages than can be read in a request's time, those
nearest to the question by BM25 are read, and a warning says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.history.predictions import Said
from app.inference.influence import Influence
from app.inference.pipeline import Cited, Evidence, together
from app.inference.retrieval import SearchOptions, filter_of, find, method_by, method_for
from app.inference.snapshot import Snapshot
from app.predict import accounts
from app.predict import classify as service
from app.predict.qa_request import Question, check, questions
from app.predict.records import remembered
from app.predict.task_influence import of_passages
from app.problems import Problem
from app.schemas.predict import PredictRequest
from app.state import Footnote
from index_data.documents import Document
from index_data.search.searcher import Hit, Searcher
from index_data.segment.segment import segment_of
from index_data.segment.view import compiled, whole
from index_data.text.passages import passages

if TYPE_CHECKING:
    from model.qa.answers import SpanAnswer
    from model.qa.evidence import Span

HEAD = "qa"
MOST_PASSAGES = 32  # read for one question
CONTEXT_WORDS = 100  # of a passage of a given context
CONTEXT = "#/input/context"


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one question. ``hits``: the passages that were read, best first."""

    answer: SpanAnswer
    hits: list[Hit]
    warnings: list[str]
    reason: str | None
    retrieve_ms: float
    predict_ms: float
    influence: dict[int, Influence] = field(default_factory=dict)  # by place in ``hits``


async def predict(footnote: Footnote, request: PredictRequest) -> bytes:
    """The answer to ``POST /predict`` with the task ``qa``, as JSON. Raises :class:`Problem`."""
    began = time.perf_counter()
    check(request)
    given = questions(request.input, footnote.settings.max_input_chars)
    with footnote.permits.take(len(given)):
        snapshot = await service.captured(footnote, request.retrieval)
        pin = request.pin
        snapshot = await footnote.pins.snapshot(snapshot, pin.model_sha256, pin.index_sequence)
        footnote.pins.note(snapshot.searcher)
        check_head(snapshot)
        degraded = method_note(snapshot, request, given)
        done = await answer_all(footnote, snapshot, given, request)
    body = predict_body(request, snapshot, done, began, degraded)
    said = [
        None if isinstance(q, Problem) or isinstance(one, Problem) else Said(q.text, None, None)
        for q, one in zip(given, done, strict=True)
    ]
    found = [
        None
        if isinstance(q, Problem) or isinstance(one, Problem)
        else one.hits * (q.context is None)
        for q, one in zip(given, done, strict=True)
    ]
    if request.retrieval.mode != "index":  # what came with the request comes with it again
        found = [None if hits is None else [] for hits in found]
    abstain = (request.abstain.min_confidence, request.abstain.min_support)
    return remembered(footnote, request, snapshot, said, found, abstain, body)


async def answer_all(
    footnote: Footnote,
    snapshot: Snapshot,
    given: Sequence[Question | Problem],
    request: PredictRequest,
    recorded: Sequence[Evidence | None] = (),
) -> list[Answered | Problem]:
    """The answers in order. ``recorded``: what was found for each, instead of looking again."""
    known = recorded or [None] * len(given)
    with snapshot.model().engine.use():
        work = [
            answer(footnote, snapshot, q, request, evidence)
            for q, evidence in zip(given, known, strict=True)
            if isinstance(q, Question)
        ]
        answered = iter(await together(work))
    return [next(answered) if isinstance(q, Question) else q for q in given]


def predict_body(
    request: PredictRequest,
    snapshot: Snapshot,
    done: Sequence[Answered | Problem],
    began: float,
    degraded: Sequence[str],
) -> dict[str, Any]:
    """The answer of ``POST /predict``."""
    return {
        "id": service.new_id(),
        "object": "prediction",
        "created": int(time.time()),
        "task": request.task,
        "model": snapshot.model().model.to_json(),
        "index": snapshot.index_json(),
        "data": [item(i, one, request) for i, one in enumerate(done)],
        "usage": usage(done),
        "timing_ms": timing(done, began),
        "degraded": [*snapshot.degraded, *degraded],
        "warnings": warnings(done, request),
    }


def check_head(snapshot: Snapshot) -> None:
    """Raise ``capability-missing`` where the checkpoint does not answer questions."""
    if HEAD not in snapshot.model().model.span_heads:
        can = ", ".join(snapshot.tasks())
        raise Problem("capability-missing", f"The loaded checkpoint can do: {can}.")


def method_note(
    snapshot: Snapshot, request: PredictRequest, given: Sequence[Question | Problem]
) -> list[str]:
    """In what retrieval falls short, where the index is asked at all."""
    asks_index = any(isinstance(q, Question) and q.context is None for q in given)
    if request.retrieval.mode != "index" or not asks_index:
        return []
    return method_for(snapshot, request.retrieval.method, "retrieval.method")[1]


async def answer(
    footnote: Footnote,
    snapshot: Snapshot,
    asked: Question,
    request: PredictRequest,
    recorded: Evidence | None = None,
) -> Answered:
    """Find the passages of one question (or take those recorded), read them, answer."""
    from model.qa.evidence import PassageText  # torch takes seconds, and the port opens before it

    began = time.perf_counter()
    engine = snapshot.model().engine
    words = any(map(str.isalnum, asked.text))
    # Without a word there is nothing to look for; emoji and marks alone find chance neighbours.
    hits: list[Hit] = []
    notes: list[str] = []
    ranked = request.retrieval.mode == "index" and asked.context is None
    if recorded is not None and ranked:
        hits = recorded.hits
    elif words:
        hits, notes, ranked = await evidence(footnote, snapshot, asked, request)
    found = time.perf_counter()
    texts = [PassageText(h.text, h.rank if ranked else 1, h.document.title) for h in hits]
    said = await asyncio.wrap_future(engine.answer(asked.text, texts, HEAD))
    reason = why_not(said, asked, request)
    influence: dict[int, Influence] = {}
    if "influence" in request.explain:
        cited = [i for i, hit in enumerate(hits) if hit.doc_id]
        influence = await of_passages(engine, HEAD, said, cited)
        if hits and not cited:
            notes = [*notes, "explain.influence: a context that was given is not cited"]
    now = time.perf_counter()
    took = 1000 * (found - began), 1000 * (now - found)
    return Answered(said, hits, notes, reason, *took, influence)


def why_not(said: SpanAnswer, asked: Question, request: PredictRequest) -> str | None:
    """Why nothing is answered; ``None`` where something is."""
    wanted = request.abstain
    if not any(map(str.isalnum, asked.text)):
        return "no_words"
    if not said.readable:
        return "unreadable"
    if not said.mass:
        closed = request.retrieval.mode == "off" and asked.context is None
        return "closed_book" if closed else "nothing_found"
    if not said.spans:
        return "no_words"
    if not said.answerable:
        return "not_in_passages"
    if wanted.min_support is not None and said.support < wanted.min_support:
        return "low_support"
    if wanted.min_confidence is not None and said.confidence < wanted.min_confidence:
        return "low_confidence"
    return None


async def evidence(
    footnote: Footnote, snapshot: Snapshot, asked: Question, request: PredictRequest
) -> tuple[list[Hit], list[str], bool]:
    """The passages to read, warnings, and whether their order is a retriever's."""
    wanted = request.retrieval
    pool, loop = footnote.pipeline.pool, asyncio.get_running_loop()
    if asked.context is not None:
        given = [Document("", asked.context)]
        hits, notes = await loop.run_in_executor(pool, nearest, given, asked.text, MOST_PASSAGES)
        return hits, notes, False
    if wanted.mode == "off":
        return [], [], False
    if wanted.mode == "provided":
        left = [d for d in wanted.documents or () if d.id not in set(wanted.exclude_ids)]
        given = [Document(d.id, d.text, d.title) for d in left]
        hits, notes = await loop.run_in_executor(pool, nearest, given, asked.text, MOST_PASSAGES)
        return hits, notes, False
    serving = snapshot.model()
    k = wanted.k or serving.model.span_heads[HEAD]
    notes = [f"retrieval.k: the best {MOST_PASSAGES} were read"] if k > MOST_PASSAGES else []
    method, _ = method_for(snapshot, wanted.method, "retrieval.method")
    vector = None
    if method != "bm25":
        read = await asyncio.wrap_future(serving.engine.read(asked.text, None))
        vector = read.state.vector
        method = method_by(method, wanted.method, read.state)
    search = SearchOptions(
        k=min(k, MOST_PASSAGES),
        method=method,
        filter=filter_of(wanted.filter, "#/retrieval/filter"),
        exclude_ids=tuple(wanted.exclude_ids),
        passages=True,
    )
    return await find(pool, snapshot, asked.text, vector, search), notes, True


def nearest(documents: Sequence[Document], text: str, most: int) -> tuple[list[Hit], list[str]]:
    """The passages of some documents: all of them, or the ``most`` nearest to a text by BM25."""
    pieces = [
        (document, start, end)
        for document in documents
        for start, end in passages(document.text, words=CONTEXT_WORDS)
    ]
    notes = []
    if len(pieces) > most:
        notes.append(f"of {len(pieces)} passages the {most} nearest to the question were read")
        texts = [Document(str(i), d.text[start:end]) for i, (d, start, end) in enumerate(pieces)]
        segment = segment_of(texts, passage_words=0, average_length=float(CONTEXT_WORDS))
        view = whole(segment, compiled(segment, float(CONTEXT_WORDS)))
        searcher = Searcher([view], generation=0, sequence=0)
        best = [int(hit.doc_id) for hit in searcher.search(text, k=most, method="bm25")]
        rest = [i for i in range(len(pieces)) if i not in set(best)]
        pieces = [pieces[i] for i in sorted([*best, *rest[: most - len(best)]])]
    hits = [
        Hit(document.id, rank, 0.0, {}, document, start, end, None)
        for rank, (document, start, end) in enumerate(pieces, 1)
    ]
    return hits, notes


def item(index: int, done: Answered | Problem, request: PredictRequest) -> dict[str, Any]:
    """One element of ``data``."""
    if isinstance(done, Problem):
        return {"index": index, "error": done.to_json()}
    said, top = done.answer, request.params.top_n
    spans = said.spans[:top]
    output: dict[str, Any] = {
        "answer": None,
        "answerable": done.reason is None,
        "doc_id": None,
        "start": None,
        "end": None,
        "score": None,
        "alternatives": [possible(span, done.hits) for span in spans],
        "reason": done.reason,
    }
    if done.reason is None:
        output |= possible(said.spans[0], done.hits)
        output["alternatives"] = output["alternatives"][1:]
    answered = {
        "index": index,
        "output": output,
        "confidence": said.confidence,
        "calibrated": said.calibrated,
        "support": said.support,
        "abstained": done.reason is not None,
        "abstain_reason": abstain_reason(done.reason),
    }
    if service.cites(request):
        weights = enumerate(zip(done.hits, said.mass, strict=True))
        cited = [Cited(h, w, done.influence.get(i)) for i, (h, w) in weights if h.doc_id]
        answered["citations"] = [service.citation(one, "label") for one in cited]
    return answered


def possible(span: Span, hits: Sequence[Hit]) -> dict[str, Any]:
    """A span with its place in its document."""
    hit = hits[span.passage]
    return {
        "answer": span.text,
        "doc_id": hit.doc_id or None,
        "start": hit.start + span.start,
        "end": hit.start + span.end,
        "score": round(span.prob, 6),
    }


def abstain_reason(reason: str | None) -> str | None:
    """The reason in the words that all tasks share."""
    if reason in (None, "low_support", "low_confidence"):
        return reason
    return "low_support" if reason == "not_in_passages" else "no_evidence"


def usage(done: Sequence[Answered | Problem]) -> dict[str, int]:
    """What was read for a request."""
    good = [one for one in done if isinstance(one, Answered)]
    return accounts.usage(
        tokens=sum(one.answer.tokens for one in good),
        retrieved=sum(len(one.hits) for one in good),
        used=sum(weight > 0 for one in good for weight in one.answer.mass),
    )


def timing(done: Sequence[Answered | Problem], began: float) -> dict[str, float]:
    """Milliseconds, of the slowest question for each part. Waiting is part of ``predict``."""
    good = [one for one in done if isinstance(one, Answered)]
    return accounts.timing(
        began,
        retrieve=max(one.retrieve_ms for one in good),
        predict=max(one.predict_ms for one in good),
    )


def warnings(done: Sequence[Answered | Problem], request: PredictRequest) -> list[str]:
    """What was read only in part, and parameters that have no effect."""
    notes = [note for one in done if isinstance(one, Answered) for note in one.warnings]
    return [*dict.fromkeys(notes), *service.unused(request.params, "question answering")]
