"""Named entities behind ``POST /predict``: labelled sentences are retrieved, the text is tagged.

Only documents with ``metadata.entities`` are evidence, found by BM25 unless the request says
otherwise: what finds names is the names. Types that the head does not know come from them alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.history.predictions import Said
from app.inference.influence import Influence
from app.inference.pipeline import CITED, Cited, Evidence, together
from app.inference.retrieval import SearchOptions, filter_of, find, method_for, provided_hits
from app.inference.snapshot import Snapshot
from app.predict import accounts
from app.predict import classify as service
from app.predict.records import remembered
from app.predict.task_influence import of_sentences
from app.problems import FieldError, Problem
from app.schemas.predict import AbstainReason, PredictRequest, ProvidedDocument
from app.settings import Settings
from app.state import Footnote
from index_data.entities import COLUMN, Entities, entities_of, fault_in, spans, within
from index_data.filters import MARKED, Filter
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.ner.tagger import Entity, TagAnswer
    from model.reader import Reader

HEAD: Final = "ner"
SENTENCES: Final = 48  # labelled sentences that are looked at when the request does not say


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one text. ``entities``: those that the request's choice and thresholds leave."""

    answer: TagAnswer
    entities: list[Entity]
    abstain_reason: AbstainReason | None
    hits: list[Hit]
    retrieve_ms: float
    predict_ms: float
    influence: dict[int, Influence] = field(default_factory=dict)  # by place in ``hits``


async def predict(footnote: Footnote, request: PredictRequest) -> bytes:
    """The answer to ``POST /predict`` with the task ``ner``, as JSON. Raises :class:`Problem`."""
    began = time.perf_counter()
    check(request)
    inputs, pointers = service.texts(request.input)
    bad = [footnote.pipeline.problem_of(t, p) for t, p in zip(inputs, pointers, strict=True)]
    if all(bad):
        errors = [error for problem in bad if problem for error in problem.errors]
        raise Problem("validation", "The request is not valid.", errors=errors)
    with footnote.permits.take(len(inputs)):
        snapshot = await service.captured(footnote, request.retrieval)
        pin = request.pin
        snapshot = await footnote.pins.snapshot(snapshot, pin.model_sha256, pin.index_sequence)
        footnote.pins.note(snapshot.searcher)
        with snapshot.model().engine.use():
            check_types(request, snapshot, await types_of_head(snapshot, head_of(request)))
            done = await answer_all(footnote, snapshot, inputs, bad, request)
    body = predict_body(request, snapshot, done, began)
    said = [
        None if isinstance(one, Problem) else Said(str(text), None, None)
        for text, one in zip(inputs, done, strict=True)
    ]
    from_index = request.retrieval.mode == "index"
    found = [None if isinstance(one, Problem) else one.hits * from_index for one in done]
    least = thresholds(request, footnote.settings)
    return remembered(footnote, request, snapshot, said, found, least, body)


async def answer_all(
    footnote: Footnote,
    snapshot: Snapshot,
    inputs: Sequence[object],
    bad: Sequence[Problem | None],
    request: PredictRequest,
    recorded: Sequence[Evidence | None] = (),
) -> list[Answered | Problem]:
    """The answers in order. ``recorded``: what was found for each, instead of looking again."""
    known = recorded or [None] * len(inputs)
    work = [
        answer(footnote, snapshot, str(text), request, evidence)
        for text, problem, evidence in zip(inputs, bad, known, strict=True)
        if problem is None
    ]
    answered = iter(await together(work))
    return [next(answered) if problem is None else problem for problem in bad]


def predict_body(
    request: PredictRequest,
    snapshot: Snapshot,
    done: Sequence[Answered | Problem],
    began: float,
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
        "degraded": list(snapshot.degraded),
        "warnings": service.unused(request.params, "ner"),
    }


def check(request: PredictRequest) -> None:
    """Raise ``capability-missing`` or ``validation`` for what does not go with entities."""
    if request.stream:
        raise Problem("capability-missing", "Entities are not streamed: they come at once.")
    if "ablation" in request.explain:
        raise Problem("capability-missing", "explain: named entities can do: citations, influence.")
    service.check_retrieval(request.retrieval)
    errors = []
    for i, document in enumerate(request.retrieval.documents or ()):
        fault = fault_in(document.text, document.entities or [])
        if fault is not None:
            place = f"#/retrieval/documents/{i}/entities{fault[0]}"
            errors.append(FieldError(place, fault[1]))
    if errors:
        raise Problem("validation", "The request is not valid.", errors=errors)


def head_of(request: PredictRequest) -> str:
    """The head that is asked; a name that no head has is answered by the neighbours alone."""
    return request.field or HEAD


async def types_of_head(snapshot: Snapshot, head: str) -> Sequence[str]:
    """The entity types that a head knows."""

    def ask(reader: Reader) -> Sequence[str]:
        return reader.tagger(head).types

    return await asyncio.wrap_future(snapshot.model().engine.call(ask))


def check_types(request: PredictRequest, snapshot: Snapshot, own: Sequence[str]) -> None:
    """Raise ``validation`` for a wanted type that neither head nor evidence knows."""
    if request.params.labels is None:
        return
    known = {*own}
    if request.retrieval.mode == "index":
        known |= {*snapshot.index().column_values(COLUMN)}
    for document in request.retrieval.documents or ():
        known |= {str(entity["type"]) for entity in document.entities or ()}
    errors = [
        FieldError(f"#/params/labels/{i}", "no such entity type, in the head or in the index")
        for i, name in enumerate(request.params.labels)
        if name not in known
    ]
    if errors:
        raise Problem("validation", "The request is not valid.", errors=errors)


async def answer(
    footnote: Footnote,
    snapshot: Snapshot,
    text: str,
    request: PredictRequest,
    recorded: Evidence | None = None,
) -> Answered:
    """Find labelled sentences for one text (or take those recorded), and tag it."""
    from model.ner.evidence import TagHit  # torch takes seconds, and the port opens before it

    began = time.perf_counter()
    if recorded is not None and request.retrieval.mode == "index":
        hits, marked = recorded.hits, marked_of(recorded.hits)
    else:
        hits, marked = await evidence(footnote, snapshot, text, request)
    found = time.perf_counter()
    given = [TagHit(h.text, m, h.score) for h, m in zip(hits, marked, strict=True)]
    head = head_of(request)

    def tag(reader: Reader) -> TagAnswer:
        return reader.tagger(head).answer([text], [given])[0]

    said = await asyncio.wrap_future(snapshot.model().engine.call(tag))
    entities, abstain_reason = judged(said, request, footnote.settings)
    influence: dict[int, Influence] = {}
    if "influence" in request.explain:
        asked, engine = partial(wanted_of, request), snapshot.model().engine
        cited = cited_of(hits, said, request)
        influence = await of_sentences(engine, head, text, given, asked(said), cited, asked)
    now = time.perf_counter()
    took = 1000 * (found - began), 1000 * (now - found)
    return Answered(said, entities, abstain_reason, hits, *took, influence)


def cited_of(hits: Sequence[Hit], said: TagAnswer, request: PredictRequest) -> list[int]:
    """Which of the hits are cited: those that count, the best ones unless the request says k."""
    cited = [i for i in range(len(hits)) if said.weights[i] > 0]
    if request.retrieval.k is not None:
        return cited
    return sorted(sorted(cited, key=lambda i: -said.weights[i])[:CITED])


def wanted_of(request: PredictRequest, said: TagAnswer) -> list[Entity]:
    """The entities of the types that a request asks for."""
    wanted = request.params.labels
    return [e for e in said.entities if wanted is None or e.type in wanted]


def thresholds(request: PredictRequest, settings: Settings) -> tuple[float, float]:
    """The least confidence and support: the request's, else the server's."""
    least, support = request.abstain.min_confidence, request.abstain.min_support
    return (
        settings.min_confidence if least is None else least,
        settings.min_support if support is None else support,
    )


def judged(
    said: TagAnswer, request: PredictRequest, settings: Settings
) -> tuple[list[Entity], AbstainReason | None]:
    """What is left of the entities, and why none is given where none may be."""
    least, support = thresholds(request, settings)
    if said.abstained:
        return [], "no_evidence"
    if said.support < support:
        return [], "low_support"
    chosen = wanted_of(request, said)
    kept = [e for e in chosen if e.score >= least]
    return kept, "low_confidence" if chosen and not kept else None


async def evidence(
    footnote: Footnote, snapshot: Snapshot, text: str, request: PredictRequest
) -> tuple[list[Hit], list[Entities]]:
    """The labelled sentences for a text, best first, each with its entities."""
    wanted = request.retrieval
    if wanted.mode == "off":
        return [], []
    engine = snapshot.model().engine
    search = SearchOptions(k=wanted.k or SENTENCES, exclude_ids=tuple(wanted.exclude_ids))
    if wanted.mode == "provided":
        documents = tuple(d for d in wanted.documents or () if d.entities)
        reads = [
            asyncio.wrap_future(engine.read(t, None)) for t in [text, *(d.text for d in documents)]
        ]
        query, *vectors = [done.state.vector for done in await asyncio.gather(*reads)]
        by_id = {d.id: d for d in documents}
        hits = provided_hits(documents, HEAD, vectors, query, search)
        return hits, [marked_in(by_id[hit.doc_id]) for hit in hits]
    method, _ = method_for(snapshot, wanted.method or "bm25", "retrieval.method")
    vector = None
    if method != "bm25":
        vector = (await asyncio.wrap_future(engine.read(text, None))).state.vector
    mine = filter_of(wanted.filter, "#/retrieval/filter")
    if mine is not None:
        mine = Filter(f"{mine.key} {MARKED.key}", (*mine.clauses, *MARKED.clauses))
    search = replace(search, method=method, filter=mine or MARKED)
    hits = await find(footnote.pipeline.pool, snapshot, text, vector, search)
    return hits, marked_of(hits)


def marked_of(hits: Sequence[Hit]) -> list[Entities]:
    """The entities of each hit's document that lie in its passage."""
    return [within(entities_of(hit.document) or (), hit.start, hit.end) for hit in hits]


def marked_in(document: ProvidedDocument) -> Entities:
    """The entities of a document that came with the request."""
    return spans(document.entities or [])


def item(index: int, one: Answered | Problem, request: PredictRequest) -> dict[str, Any]:
    """One element of ``data``."""
    if isinstance(one, Problem):
        return {"index": index, "error": one.to_json()}
    said = one.answer
    entities = [
        {"text": e.text, "type": e.type, "start": e.start, "end": e.end, "score": e.score}
        for e in one.entities
    ]
    body: dict[str, Any] = {
        "index": index,
        "output": {"entities": entities},
        "confidence": said.confidence,
        "calibrated": said.calibrated,
        "support": said.support,
        "abstained": one.abstain_reason is not None,
        "abstain_reason": one.abstain_reason,
    }
    if service.cites(request):
        places = cited_of(one.hits, said, request)
        cited = [Cited(one.hits[i], said.weights[i], one.influence.get(i)) for i in places]
        body["citations"] = [service.citation(c, HEAD) for c in cited]
    return body


def usage(done: Sequence[Answered | Problem]) -> dict[str, int]:
    """What was read for a request."""
    good = [one for one in done if isinstance(one, Answered)]
    return accounts.usage(
        tokens=sum(one.answer.tokens for one in good),
        retrieved=sum(len(one.hits) for one in good),
        used=sum(w > 0 for one in good for w in one.answer.weights),
    )


def timing(done: Sequence[Answered | Problem], began: float) -> dict[str, float]:
    """Milliseconds, of the slowest input for each part."""
    good = [one for one in done if isinstance(one, Answered)]
    return accounts.timing(
        began,
        retrieve=max(one.retrieve_ms for one in good),
        predict=max(one.predict_ms for one in good),
    )
