"""The classification service: retrieve, read, answer. It knows no HTTP.

An input is read once by the encoder (the model's thread), its evidence is found (a retrieval
thread), and the fusion and neighbour step answers over it (the model's thread again). Inputs of one
request go through together and meet those of other requests in the engine's batches.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.inference.ablation import ClosedBook
from app.inference.calibration import Calibration, tempered
from app.inference.influence import (
    Counterfactuals,
    FlipSet,
    Influence,
    Variants,
    Verdict,
    influences,
)
from app.inference.retrieval import (
    SearchOptions,
    find,
    method_by,
    method_for,
    provided_hits,
    with_correction,
)
from app.inference.snapshot import Serving, Snapshot
from app.problems import FieldError, Problem
from app.schemas.predict import AbstainReason, ProvidedDocument
from index_data.filters import Filter
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from app.inference.engine import TextRead
    from model.labels.prediction import Prediction

T = TypeVar("T")
CITED = 10  # documents cited when the request does not say how many it wants


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
    influence: bool = False
    ablation: bool = False


@dataclass(frozen=True, slots=True)
class Cited:
    """A hit with its share in the answer, and what it did to it where that was asked."""

    hit: Hit
    weight: float
    influence: Influence | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an input is answered from, beside the model: with it the answer can be given again.

    ``labels``: those of the field that the index knew; ``calibration``: of a field without head.
    """

    hits: list[Hit]
    labels: tuple[str, ...]
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one input. ``scores`` are in the head's order, then the others sorted."""

    label: str | None
    scores: list[tuple[str, float]]
    multilabel: list[str] | None  # a list-valued field: the labels over the threshold
    confidence: float
    calibrated: bool
    support: float
    abstain_reason: AbstainReason | None  # why it abstained
    cited: list[Cited]
    evidence: Evidence
    retrieved: int
    used: int
    tokens: int
    queue_ms: float
    retrieve_ms: float
    predict_ms: float
    flip_set: FlipSet | None = None
    closed: ClosedBook | None = None
    vector: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)  # [dim]

    @property
    def abstained(self) -> bool:
        """Whether no label is given."""
        return self.abstain_reason is not None


class Pipeline:
    """Answers inputs from snapshots; holds the threads that search.

    ``ablation_share``: of the inputs, how many are answered with retrieval off too.
    ``calibration``: of a field that has no head, once there is enough to fit one on.
    """

    def __init__(
        self,
        *,
        retrieval_threads: int,
        max_chars: int,
        ablation_share: float = 0.0,
        calibration: Callable[[Snapshot, str], Calibration | None] = lambda snapshot, field: None,
    ) -> None:
        self.pool = ThreadPoolExecutor(retrieval_threads, thread_name_prefix="retrieve")
        self.max_chars = max_chars
        self.ablation_share = ablation_share
        self._calibration = calibration

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
        self,
        snapshot: Snapshot,
        inputs: Sequence[object],
        ask: Ask,
        *,
        pointers: Sequence[str],
        recorded: Sequence[Evidence | None] = (),
    ) -> list[Answer | Problem]:
        """An answer, or what is wrong, for each input.

        ``recorded``: for each input the evidence to answer from, where it is not to be retrieved.
        Raises :class:`Problem` when all of them are bad, or the request as a whole is.
        """
        bad = [self.problem_of(text, p) for text, p in zip(inputs, pointers, strict=True)]
        if all(problem is not None for problem in bad):
            errors = [error for problem in bad if problem for error in problem.errors]
            raise Problem("validation", "The request is not valid.", errors=errors)
        with snapshot.model().engine.use():
            given = recorded or [None] * len(inputs)
            work = [
                self.answer(snapshot, str(text), ask, recorded=evidence)
                for text, problem, evidence in zip(inputs, bad, given, strict=True)
                if not problem
            ]
            answers = iter(await together(work))
        return [next(answers) if problem is None else problem for problem in bad]

    async def answer(
        self,
        snapshot: Snapshot,
        text: str,
        ask: Ask,
        *,
        recorded: Evidence | None = None,
        read: TextRead | None = None,
    ) -> Answer:
        """Answer one input.

        ``recorded``: from this evidence, and nothing is retrieved. ``read``: what the model made of
        the text before, for another snapshot with the same model.
        """
        serving = snapshot.model()
        engine = serving.engine
        began = time.perf_counter()
        given = read
        if read is None:
            read = await asyncio.wrap_future(engine.read(text, ask.field))
        was_read = time.perf_counter()
        evidence = recorded
        if evidence is None:
            hits = await self.evidence(snapshot, text, read, ask)
            calibration = self._calibration(snapshot, ask.field) if ask.mode == "index" else None
            evidence = Evidence(hits, known_labels(snapshot, ask), calibration)
        found = time.perf_counter()
        variants = Variants(text, evidence.hits, ask.field)
        closing = None
        sampled = recorded is None and given is None and random.random() < self.ablation_share
        if ask.ablation or (sampled and ask.mode != "off"):
            closing = engine.predict(read.state, [], ask.field, index_labels=())
        asked = Counterfactuals.of(
            serving,
            read.state,
            ask.field,
            evidence.labels,
            variants,
            lambda other: verdict(tempered(other, evidence.calibration), ask),
        )
        if ask.influence:
            raw = await asked.whole(variants.expected(CITED if ask.k is None else None))
        else:
            raw = await asyncio.wrap_future(
                engine.predict(
                    read.state, variants.without(), ask.field, index_labels=evidence.labels
                )
            )
        prediction = tempered(raw, evidence.calibration)
        now = time.perf_counter()
        answer = make_answer(
            prediction,
            evidence,
            ask,
            tokens=read.state.tokens,
            vector=read.state.vector,
            queue_ms=1000 * read.waited,
            retrieve_ms=1000 * (found - was_read),
            predict_ms=1000 * (was_read - began - read.waited + now - found),
        )
        if closing is not None:
            alone = verdict(await asyncio.wrap_future(closing), ask)
            answer = replace(answer, closed=ClosedBook.of(alone, verdict(prediction, ask)))
        if ask.influence and prediction.label is not None:
            answer = await explained(answer, asked, verdict(prediction, ask))
        return answer

    async def evidence(
        self,
        snapshot: Snapshot,
        text: str,
        read: TextRead,
        ask: Ask,
    ) -> list[Hit]:
        """The hits that an input is answered from, by the request's mode."""
        serving = snapshot.model()
        k = ask.k or serving.model.wanted(ask.field)
        if ask.mode == "off":
            return []
        wanted = SearchOptions(
            k=k, method=ask.method, filter=ask.filter, exclude_ids=ask.exclude_ids
        )
        if ask.mode == "provided":
            return await self.provided(serving, read, ask, wanted)
        method, _ = method_for(snapshot, ask.method, "retrieval.method")
        wanted = replace(wanted, method=method_by(method, ask.method, read.state))
        vector = read.state.vector
        hits = await find(self.pool, snapshot, text, vector, wanted)
        return with_correction(snapshot, text, hits, wanted)

    async def provided(
        self, serving: Serving, read: TextRead, ask: Ask, wanted: SearchOptions
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


def make_answer(prediction: Prediction, evidence: Evidence, ask: Ask, **timing: Any) -> Answer:
    """The answer that a prediction amounts to, under the request's labels and thresholds."""
    hits = evidence.hits
    scores = scores_of(prediction, ask)
    best = max(scores, key=lambda pair: pair[1], default=None)
    confidence = best[1] if best and not prediction.abstained else 0.0
    abstain_reason: AbstainReason | None = None
    if prediction.abstained or best is None:
        abstain_reason = "no_evidence"
    elif ask.min_support is not None and prediction.support < ask.min_support:
        abstain_reason = "low_support"
    elif ask.min_confidence is not None and confidence < ask.min_confidence:
        abstain_reason = "low_confidence"
    multilabel = None
    if prediction.multi:
        multilabel = [] if abstain_reason else [n for n, p in scores if p >= prediction.threshold]
        if not multilabel and not abstain_reason:
            abstain_reason = "low_confidence"  # no label is over the threshold
    cited = [Cited(hit, float(w)) for hit, w in zip(hits, prediction.weights, strict=True)]
    if ask.k is None and len(cited) > CITED:
        kept = {id(c) for c in sorted(cited, key=lambda c: -c.weight)[:CITED]}
        cited = [c for c in cited if id(c) in kept]
    return Answer(
        label=None if abstain_reason or best is None else best[0],
        scores=[] if prediction.abstained else scores,
        multilabel=multilabel,
        confidence=confidence,
        calibrated=prediction.calibrated and ask.labels is None,
        support=float(prediction.support),
        abstain_reason=abstain_reason,
        cited=cited,
        evidence=evidence,
        retrieved=len(hits),
        used=sum(w > 0 for w in prediction.weights),
        **timing,
    )


async def explained(answer: Answer, asked: Counterfactuals, whole: Verdict) -> Answer:
    """The answer with the influence of each document that it cites."""
    position = {id(hit): i for i, hit in enumerate(answer.evidence.hits)}
    places = [position[id(c.hit)] for c in answer.cited]
    found, flip_set = await influences(asked, whole, places)
    cited = [replace(c, influence=found[i]) for c, i in zip(answer.cited, places, strict=True)]
    return replace(answer, cited=cited, flip_set=flip_set)


def scores_of(prediction: Prediction, ask: Ask) -> list[tuple[str, float]]:
    """Labels with their probabilities, under the request's choice of labels."""
    scores = [(n, float(p)) for n, p in zip(prediction.labels, prediction.probs, strict=True)]
    if ask.labels is None:
        return scores
    return restricted(scores, ask.labels, renormalise=not prediction.multi)


def verdict(prediction: Prediction, ask: Ask) -> Verdict:
    """What a prediction says, whatever the thresholds; labels that it lacks are left out."""
    known = tuple(n for n in ask.labels or () if n in prediction.labels)
    chosen = replace(ask, labels=None if ask.labels is None else known)
    scores = [] if prediction.abstained else scores_of(prediction, chosen)
    best = max(scores, key=lambda pair: pair[1], default=(None, 0.0))[0]
    said = [best] if best is not None else []
    if prediction.multi:
        said = [n for n, p in scores if p >= prediction.threshold]
    return Verdict(best, frozenset(said), dict(scores))


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
