"""The classification service: retrieve, read, answer. It knows no HTTP.

An input is read once by the encoder (the model's thread), its evidence is found (a retrieval
thread), and the fusion and neighbour step answers over it (the model's thread again). Inputs of one
request go through together and meet those of other requests in the engine's batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from app.problems import FieldError, Problem
from app.retrieval import Wanted, deciding, find, method_for, provided_hits, with_correction
from app.schemas.predict import ProvidedDocument
from app.snapshot import Serving, Snapshot
from index_data.documents import Document
from index_data.filters import Filter
from index_data.searcher import Hit

if TYPE_CHECKING:
    from app.engine import TextRead
    from model.network import Retrieved
    from model.reader import Prediction

T = TypeVar("T")
CITED = 10  # documents cited when the request does not say how many it wants
MULTI_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of every input of a request."""

    field: str = "label"
    mode: Literal["index", "provided", "off"] = "index"
    method: str | None = None
    k: int | None = None
    filter: Filter | None = None
    exclude_ids: tuple[str, ...] = ()
    documents: tuple[ProvidedDocument, ...] = ()
    labels: tuple[str, ...] | None = None
    min_confidence: float | None = None
    min_support: float | None = None
    cite: bool = True


@dataclass(frozen=True, slots=True)
class Cited:
    """A hit with its share in the answer."""

    hit: Hit
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one input. ``scores`` are in the head's order, then the others sorted."""

    label: str | None
    scores: list[tuple[str, float]]
    several: list[str] | None  # a list-valued field: the labels over the threshold
    confidence: float
    calibrated: bool
    support: float
    abstained: bool
    cited: list[Cited]
    retrieved: int
    used: int
    tokens: int
    queue_ms: float
    retrieve_ms: float
    predict_ms: float


class Pipeline:
    """Answers inputs from snapshots; holds the threads that search."""

    def __init__(self, *, retrieval_threads: int, max_chars: int) -> None:
        self.pool = ThreadPoolExecutor(retrieval_threads, thread_name_prefix="retrieve")
        self.max_chars = max_chars

    def close(self) -> None:
        """End the retrieval threads."""
        self.pool.shutdown(wait=True)

    def problem_of(self, text: object, pointer: str) -> Problem | None:
        """What is wrong with an input, if anything."""
        if not isinstance(text, str):
            why = "must be a string"
        elif not text or text.isspace():
            why = "the text is empty"
        elif len(text) > self.max_chars:
            why = f"{len(text)} characters; at most {self.max_chars}"
        else:
            return None
        error = FieldError(pointer, why)
        return Problem("validation", "The request is not valid.", errors=[error])

    async def answer_all(
        self, snapshot: Snapshot, inputs: Sequence[object], ask: Ask, *, pointers: Sequence[str]
    ) -> list[Answer | Problem]:
        """An answer, or what is wrong, for each input.

        Raises :class:`Problem` when all of them are bad, or the request as a whole is.
        """
        bad = [self.problem_of(text, p) for text, p in zip(inputs, pointers, strict=True)]
        if all(problem is not None for problem in bad):
            errors = [error for problem in bad if problem for error in problem.errors]
            raise Problem("validation", "The request is not valid.", errors=errors)
        with snapshot.model().engine.use():
            good = [str(text) for text, problem in zip(inputs, bad, strict=True) if not problem]
            answers = iter(await together([self.answer(snapshot, text, ask) for text in good]))
        return [next(answers) if problem is None else problem for problem in bad]

    async def answer(
        self, snapshot: Snapshot, text: str, ask: Ask, *, preview: Document | None = None
    ) -> Answer:
        """Answer one input. ``preview``: as if this correction had been made."""
        serving = snapshot.model()
        began = time.perf_counter()
        read = await asyncio.wrap_future(serving.engine.read(text, ask.field))
        was_read = time.perf_counter()
        hits = await self.evidence(snapshot, text, read, ask, preview)
        found = time.perf_counter()
        prediction = await asyncio.wrap_future(
            serving.engine.predict(
                read.state,
                as_retrieved(text, hits, ask.field),
                ask.field,
                index_labels=known_labels(snapshot, ask),
            )
        )
        now = time.perf_counter()
        return make_answer(
            prediction,
            hits,
            ask,
            tokens=read.state.tokens,
            queue_ms=1000 * read.waited,
            retrieve_ms=1000 * (found - was_read),
            predict_ms=1000 * (was_read - began - read.waited + now - found),
        )

    async def evidence(
        self,
        snapshot: Snapshot,
        text: str,
        read: TextRead,
        ask: Ask,
        preview: Document | None = None,
    ) -> list[Hit]:
        """The hits that an input is answered from, by the request's mode."""
        serving = snapshot.model()
        k = ask.k or serving.model.wanted(ask.field)
        if ask.mode == "off":
            return []
        wanted = Wanted(k=k, method=ask.method, filter=ask.filter, exclude_ids=ask.exclude_ids)
        if ask.mode == "provided":
            return await self.provided(serving, read, ask, wanted)
        method, _ = method_for(snapshot, ask.method, "retrieval.method")
        wanted = replace(wanted, method=method)
        vector = read.state.vector
        hits = await find(self.pool, snapshot, text, vector, wanted)
        extra = None
        if preview is not None:
            extra = Hit(preview.id, 1, 0.0, {}, preview, 0, len(preview.text), vector)
        return with_correction(snapshot, text, hits, wanted, extra)

    async def provided(
        self, serving: Serving, read: TextRead, ask: Ask, wanted: Wanted
    ) -> list[Hit]:
        """The documents that came with the request, encoded and ranked."""
        reads = [
            asyncio.wrap_future(serving.engine.read(document.text, None))
            for document in ask.documents
        ]
        vectors = [done.state.vector for done in await asyncio.gather(*reads)]
        return provided_hits(ask.documents, ask.field, vectors, read.state.vector, wanted)


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first failure, or the caller's leaving, cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def known_labels(snapshot: Snapshot, ask: Ask) -> tuple[str, ...]:
    """The labels of the field that the evidence could carry, beside the head's own."""
    if ask.mode == "off":
        return ()
    if ask.mode == "provided":
        return tuple(sorted({d.label for d in ask.documents if d.label is not None}))
    return tuple(snapshot.index().field_labels(ask.field))


def as_retrieved(text: str, hits: Sequence[Hit], field: str) -> list[Retrieved]:
    """Hits in the shape in which the reader takes them."""
    from model.network import Retrieved  # torch takes seconds, and the port opens before it

    exact = deciding(text, hits, field)
    return [
        Retrieved(
            title=hit.document.title,
            text=hit.text,
            label=hit.document.labels.get(field),
            score=hit.score,
            vector=hit.vector,
            exact=hit.doc_id in exact,
        )
        for hit in hits
    ]


def make_answer(prediction: Prediction, hits: Sequence[Hit], ask: Ask, **timing: Any) -> Answer:
    """The answer that a prediction amounts to, under the request's labels and thresholds."""
    scores = [(n, float(p)) for n, p in zip(prediction.labels, prediction.probs, strict=True)]
    if ask.labels is not None:
        scores = restricted(scores, ask.labels, renormalise=not prediction.multi)
    best = max(scores, key=lambda pair: pair[1], default=None)
    confidence = best[1] if best and not prediction.abstained else 0.0
    abstained = (
        prediction.abstained
        or best is None
        or (ask.min_confidence is not None and confidence < ask.min_confidence)
        or (ask.min_support is not None and prediction.support < ask.min_support)
    )
    several = None
    if prediction.multi:
        several = [] if abstained else [n for n, p in scores if p >= MULTI_THRESHOLD]
    cited = [Cited(hit, float(w)) for hit, w in zip(hits, prediction.weights, strict=True)]
    if ask.k is None and len(cited) > CITED:
        kept = {id(c) for c in sorted(cited, key=lambda c: -c.weight)[:CITED]}
        cited = [c for c in cited if id(c) in kept]
    return Answer(
        label=None if abstained or best is None else best[0],
        scores=[] if prediction.abstained else scores,
        several=several,
        confidence=confidence,
        calibrated=prediction.calibrated and ask.labels is None,
        support=float(prediction.support),
        abstained=abstained,
        cited=cited,
        retrieved=len(hits),
        used=sum(w > 0 for w in prediction.weights),
        **timing,
    )


def restricted(
    scores: Sequence[tuple[str, float]], labels: Sequence[str], *, renormalise: bool
) -> list[tuple[str, float]]:
    """Only these labels, summing to 1 again. Raises ``validation`` for a label that is unknown."""
    known = dict(scores)
    unknown = [i for i, label in enumerate(labels) if label not in known]
    if unknown and known:
        errors = [FieldError(f"#/labels/{i}", "no such label in this field") for i in unknown]
        raise Problem("validation", "The request is not valid.", errors=errors)
    kept = [(name, p) for name, p in scores if name in set(labels)]
    total = sum(p for _, p in kept)
    if not renormalise:
        return kept
    # All of them at zero: nothing is known about any, which is the uniform distribution.
    return [(name, p / total if total > 0 else 1 / len(kept)) for name, p in kept]
