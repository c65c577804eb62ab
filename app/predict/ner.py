"""The task ``ner``: labelled sentences are retrieved, then the text is tagged.

Only documents with ``metadata.entities`` are evidence, found by BM25 unless the request names a
method: names are found by their words. Types that the head does not know come from them alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.inference.answer import CITED, Answered, Cited, Evidence
from app.inference.retrieval import provided_hits, read_and_find, read_texts, search_options
from app.inference.snapshot import Snapshot
from app.predict.inputs import TextInput, check_no_ablation, texts, with_thresholds
from app.predict.task import Context, Task, item_body
from app.predict.task_influence import sentence_influences
from app.problems import FieldError, Problem
from app.schemas.predict import AbstainReason, Retrieval, TaskRequest
from app.schemas.prediction import Influence
from app.settings import Settings
from index_data.documents import entities_of
from index_data.entities import COLUMN, Entities, fault_in, spans, within
from index_data.search.evidence import entity_evidence
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.ner.tagger import Entity, TagAnswer
    from model.reader import Reader

HEAD: Final = "ner"
SENTENCES: Final = 48  # labelled sentences that are retrieved when the request names no k


@dataclass(frozen=True, slots=True, kw_only=True)
class NerAnswer(Answered):
    """The tagged text. ``entities``: those of the requested types over the thresholds."""

    entities: list[Entity]


class Ner(Task[TextInput, NerAnswer]):
    """Entities by the head ``ner`` or the one that the request names, or by neighbours alone."""

    title = "ner"

    def check(self, request: TaskRequest, settings: Settings) -> TaskRequest:
        """With the server's thresholds. Raises ``capability-missing`` for an ablation."""
        check_no_ablation(request)
        return with_thresholds(request, settings)

    def read(self, request: TaskRequest, settings: Settings) -> list[TextInput | Problem]:
        """A text, or a list of texts. Raises ``validation``, also for bad provided entities."""
        check_provided(request.retrieval)
        return texts(request.input, settings.max_input_chars)

    async def prepare(self, context: Context, inputs: Sequence[TextInput | Problem]) -> list[str]:
        """Raises ``validation`` for a requested type that neither head nor evidence knows."""
        if context.request.params.labels is not None:
            await check_types(context)
        return []

    async def answer(
        self, context: Context, given: TextInput, recorded: Evidence | None
    ) -> NerAnswer:
        """Find labelled sentences for a text (or take those recorded), and tag it."""
        from model.ner.evidence import TagHit  # torch takes seconds, and the port opens before it

        request, engine = context.request, context.snapshot.model().engine
        began = time.perf_counter()
        if recorded is not None:
            hits, entities = recorded.hits, [entities_in(hit) for hit in recorded.hits]
        else:
            pool = context.pipeline.pool
            hits, entities = await labelled(pool, context.snapshot, given.text, request.retrieval)
        retrieved_at = time.perf_counter()
        evidence = [TagHit(h.text, e, h.score) for h, e in zip(hits, entities, strict=True)]
        head = head_of(request)

        def tag(reader: Reader) -> TagAnswer:
            return reader.tagger(head).answer([given.text], [evidence])[0]

        tagged = await asyncio.wrap_future(engine.call(tag))
        chosen, abstain_reason = judged(tagged, request)
        cited = cited_places(hits, tagged, request)
        influence: dict[int, Influence] = {}
        if "influence" in request.explain:
            of_types = partial(requested, request)
            influence = await sentence_influences(
                engine, head, given.text, evidence, of_types(tagged), cited, of_types
            )
        return NerAnswer(
            entities=chosen,
            confidence=tagged.confidence,
            calibrated=tagged.calibrated,
            support=tagged.support,
            abstain_reason=abstain_reason,
            cited=[Cited(hits[i], tagged.weights[i], influence.get(i)) for i in cited],
            label_field=HEAD,
            input_text=given.text,
            evidence=Evidence(hits),
            retrieved=len(hits),
            used=sum(w > 0 for w in tagged.weights),
            tokens=tagged.tokens,
            retrieve_ms=1000 * (retrieved_at - began),
            predict_ms=1000 * (time.perf_counter() - retrieved_at),
        )

    def item(self, request: TaskRequest, answer: NerAnswer) -> dict[str, Any]:
        """The entities in the order of the text."""
        entities = [
            {"text": e.text, "type": e.type, "start": e.start, "end": e.end, "score": e.score}
            for e in answer.entities
        ]
        return item_body(request, answer, {"output": {"entities": entities}})


def check_provided(retrieval: Retrieval) -> None:
    """Raise ``validation`` for entities of provided documents that do not fit their texts."""
    errors = []
    for i, document in enumerate(retrieval.documents or ()):
        fault = fault_in(document.text, document.entities or [])
        if fault is not None:
            pointer = f"#/retrieval/documents/{i}/entities{fault[0]}"
            errors.append(FieldError(pointer, fault[1]))
    if errors:
        raise Problem("validation", "The request is not valid.", errors=errors)


def head_of(request: TaskRequest) -> str:
    """The head's name; one that no head has is answered by the neighbours alone."""
    return request.field or HEAD


async def check_types(context: Context) -> None:
    """Raise ``validation`` for a requested type that neither head nor evidence knows."""
    request, engine = context.request, context.snapshot.model().engine
    head = head_of(request)
    known = {*await asyncio.wrap_future(engine.call(lambda reader: reader.tagger(head).types))}
    if request.retrieval.mode == "index":
        known |= {*context.snapshot.index().column_values(COLUMN)}
    for document in request.retrieval.documents or ():
        known |= {str(entity["type"]) for entity in document.entities or ()}
    errors = [
        FieldError(f"#/params/labels/{i}", "no such entity type, in the head or in the index")
        for i, name in enumerate(request.params.labels or ())
        if name not in known
    ]
    if errors:
        raise Problem("validation", "The request is not valid.", errors=errors)


def cited_places(hits: Sequence[Hit], tagged: TagAnswer, request: TaskRequest) -> list[int]:
    """Which of the hits are cited: those that count, at most ``CITED`` unless k is requested."""
    cited = [i for i in range(len(hits)) if tagged.weights[i] > 0]
    if request.retrieval.k is not None:
        return cited
    return sorted(sorted(cited, key=lambda i: -tagged.weights[i])[:CITED])


def requested(request: TaskRequest, tagged: TagAnswer) -> list[Entity]:
    """The entities of the types that a request names."""
    types = request.params.labels
    return [e for e in tagged.entities if types is None or e.type in types]


def judged(tagged: TagAnswer, request: TaskRequest) -> tuple[list[Entity], AbstainReason | None]:
    """The entities over the thresholds; where none may be given, the reason."""
    least, support = request.abstain.min_confidence, request.abstain.min_support
    if tagged.abstained:
        return [], "no_evidence"
    if support is not None and tagged.support < support:
        return [], "low_support"
    of_types = requested(request, tagged)
    chosen = [e for e in of_types if least is None or e.score >= least]
    return chosen, "low_confidence" if of_types and not chosen else None


async def labelled(
    pool: ThreadPoolExecutor, snapshot: Snapshot, text: str, retrieval: Retrieval
) -> tuple[list[Hit], list[Entities]]:
    """The labelled sentences for a text, best first, each with its entities."""
    if retrieval.mode == "off":
        return [], []
    search = search_options(retrieval, retrieval.k or SENTENCES, retrieval.method or "bm25")
    if retrieval.mode == "provided":
        documents = [d for d in retrieval.documents or () if d.entities]
        states = await read_texts(snapshot.model(), [text, *(d.text for d in documents)])
        query, *vectors = [state.vector for state in states]
        by_id = {d.id: d for d in documents}
        hits = provided_hits(documents, HEAD, vectors, query, search)
        return hits, [spans(by_id[hit.doc_id].entities or []) for hit in hits]
    marked = entity_evidence(retrieval.evidence, search.filter)
    hits = await read_and_find(pool, snapshot, text, replace(search, filter=marked))
    return hits, [entities_in(hit) for hit in hits]


def entities_in(hit: Hit) -> Entities:
    """The entities of a hit's document that lie in its passage."""
    return within(entities_of(hit.document) or (), hit.start, hit.end)
