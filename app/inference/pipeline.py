"""From a text to a label and its citations, in four steps: read, gather, predict, explain.

The model's thread reads the text, a retrieval thread finds the evidence, the model's thread
predicts over it, and explanations predict again over parts of it. Inputs of one request run at the
same time and share the engine's batches with those of other requests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from app.inference.ablation import ClosedBook
from app.inference.answer import (
    CITED,
    Answer,
    AnswerOptions,
    Evidence,
    make_answer,
    verdict,
)
from app.inference.calibration import Calibration, tempered
from app.inference.influence import Counterfactuals, Variants, influences
from app.inference.retrieval import (
    SearchOptions,
    find,
    method_by,
    method_for,
    provided_hits,
    read_texts,
    with_correction,
)
from app.inference.snapshot import Serving, Snapshot
from index_data.search.evidence import label_evidence

if TYPE_CHECKING:
    from app.inference.engine import TextRead
    from model.labels.prediction import Prediction
    from model.labels.query_state import QueryState

T = TypeVar("T")
Calibrate = Callable[[Snapshot, str], Calibration | None]


class Pipeline:
    """Answers inputs from snapshots; holds the threads that search.

    ``ablation_share``: of the inputs, how many are answered with retrieval off too.
    ``calibration``: of a field that has no head, once there is enough to fit one on.
    """

    def __init__(
        self,
        *,
        retrieval_threads: int,
        ablation_share: float = 0.0,
        calibration: Calibrate = lambda snapshot, field: None,
    ) -> None:
        self.pool = ThreadPoolExecutor(retrieval_threads, thread_name_prefix="retrieve")
        self.ablation_share = ablation_share
        self._calibration = calibration

    def close(self) -> None:
        """End the retrieval threads."""
        self.pool.shutdown(wait=True)

    async def answer(
        self,
        snapshot: Snapshot,
        text: str,
        options: AnswerOptions,
        *,
        recorded: Evidence | None = None,
        text_read: TextRead | None = None,
    ) -> Answer:
        """Answer one input.

        ``recorded``: answer from this evidence, without retrieval. ``text_read``: what the model
        made of the text before, for another snapshot with the same model.
        """
        serving = snapshot.model()
        sampled = recorded is None and text_read is None and random.random() < self.ablation_share
        began = time.perf_counter()
        if text_read is None:
            text_read = await read(serving, text, options.field)
        state, read_at = text_read.state, time.perf_counter()
        evidence = recorded
        if evidence is None:
            evidence = await gather(self.pool, snapshot, text, state, options, self._calibration)
        gathered_at = time.perf_counter()
        closed_book = options.ablation or (sampled and options.mode != "off")
        predicted = await predict(serving, text, state, evidence, options, closed_book=closed_book)
        predicted_at = time.perf_counter()
        answer = make_answer(
            predicted.prediction,
            evidence,
            options,
            input_text=text,
            tokens=state.tokens,
            vector=state.vector,
            queue_ms=1000 * text_read.waited,
            retrieve_ms=1000 * (gathered_at - read_at),
            predict_ms=1000 * (read_at - began - text_read.waited + predicted_at - gathered_at),
        )
        return await explain(answer, predicted, options)


async def read(serving: Serving, text: str, field: str) -> TextRead:
    """Step 1: what the encoder makes of a text, for the head of a field."""
    return await asyncio.wrap_future(serving.engine.read(text, field))


async def gather(
    pool: ThreadPoolExecutor,
    snapshot: Snapshot,
    text: str,
    state: QueryState,
    options: AnswerOptions,
    calibration: Calibrate,
) -> Evidence:
    """Step 2: the evidence for a text that was read, by the request's mode.

    Raises ``capability-missing`` for a method that the index cannot do.
    """
    if options.mode == "off":
        return Evidence([])
    serving = snapshot.model()
    search = SearchOptions(
        k=options.k or serving.model.counted(options.field),
        method=options.method,
        filter=label_evidence(options.field, options.evidence, options.filter),
        exclude_ids=options.exclude_ids,
    )
    if options.mode == "provided":
        given = {d.label for d in options.documents if d.label is not None}
        read_documents = await read_texts(serving, [d.text for d in options.documents])
        vectors = [one.vector for one in read_documents]
        hits = provided_hits(options.documents, options.field, vectors, state.vector, search)
        return Evidence(hits, tuple(sorted(given)))
    method, _ = method_for(snapshot, options.method, "retrieval.method")
    search = replace(search, method=method_by(method, options.method, state))
    hits = await find(pool, snapshot, text, state.vector, search)
    hits = with_correction(snapshot, text, hits, search)
    labels = snapshot.index().field_labels(options.field)
    return Evidence(hits, tuple(labels), calibration(snapshot, options.field))


@dataclass(frozen=True, slots=True)
class Predicted:
    """The prediction for one input, and what explains it.

    ``counterfactuals`` predict over parts of the evidence. ``closed``: the prediction with
    retrieval off, on its way, where it is asked for.
    """

    prediction: Prediction
    counterfactuals: Counterfactuals
    closed: Future[Prediction] | None


async def predict(
    serving: Serving,
    text: str,
    state: QueryState,
    evidence: Evidence,
    options: AnswerOptions,
    *,
    closed_book: bool = False,
) -> Predicted:
    """Step 3: the prediction over the evidence. ``closed_book``: with retrieval off, too."""
    engine, field = serving.engine, options.field
    variants = Variants(text, evidence.hits, field)
    counterfactuals = Counterfactuals(
        serving,
        state,
        field,
        evidence.labels,
        variants,
        lambda other: verdict(tempered(other, evidence.calibration), options),
    )
    # Put into the queue first, so that one batch takes both.
    closed = engine.predict(state, [], field, index_labels=()) if closed_book else None
    if options.influence:
        cited = CITED if options.k is None else None
        prediction = await counterfactuals.whole(variants.expected(cited))
    else:
        hits = variants.without()
        prediction = await asyncio.wrap_future(
            engine.predict(state, hits, field, index_labels=evidence.labels)
        )
    return Predicted(tempered(prediction, evidence.calibration), counterfactuals, closed)


async def explain(answer: Answer, predicted: Predicted, options: AnswerOptions) -> Answer:
    """Step 4: the answer with the ablation and the influences that are asked for."""
    if predicted.closed is None and not options.influence:
        return answer
    whole = verdict(predicted.prediction, options)
    if predicted.closed is not None:
        closed = verdict(await asyncio.wrap_future(predicted.closed), options)
        answer = replace(answer, closed=ClosedBook.of(closed, whole))
    if not options.influence or predicted.prediction.label is None:
        return answer
    position = {id(hit): i for i, hit in enumerate(answer.evidence.hits)}
    places = [position[id(c.hit)] for c in answer.cited]
    effects, flip_set = await influences(predicted.counterfactuals, whole, places)
    cited = [replace(c, influence=effects[i]) for c, i in zip(answer.cited, places, strict=True)]
    return replace(answer, cited=cited, flip_set=flip_set)


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first failure, or a cancellation, cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
