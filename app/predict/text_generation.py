"""Text generation behind ``POST /predict``: retrieve, put before the prompt, write, and check.

What the written sentences rest on is found afterwards in the retrieved text
(`app.predict.support`), never
asked of the model. Dialogue (`app.predict.dialogue`) writes by the same way. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.inference.influence import Influence
from app.inference.pipeline import Evidence, together
from app.inference.snapshot import Snapshot
from app.inference.writer import Piece, Writer
from app.predict import classify as service
from app.predict.grounding import Found, Query, evidence, method_note, query_vector
from app.predict.support import Ground, Sentence, share, supported
from app.predict.text_answer import Written, citation, kept, least_support, predict_body
from app.problems import FieldError, Problem, invalid
from app.schemas.predict import Params, PredictRequest
from app.state import Footnote
from app.web.streaming import Emit, silent
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.text_generation.prompting import Prompt
    from model.text_generation.sampling import Sampling

QUERY_CHARS = 2_000  # of a prompt, from its end, that is searched with
SETTING = "FOOTNOTE_GENERATOR (a folder or hub id of a causal or sequence-to-sequence model)"
Prompting = Callable[[Sequence[Hit]], "Prompt"]


async def predict(footnote: Footnote, request: PredictRequest, emit: Emit = silent) -> bytes:
    """The answer to ``POST /predict`` with the task ``generation``. Raises :class:`Problem`."""
    began = time.perf_counter()
    check(request)
    inputs, pointers = service.texts(request.input)
    refuse_all(problems_of(footnote, inputs, pointers))
    with footnote.permits.take(len(inputs)):
        snapshot = await captured(footnote, request)
        writer_of(snapshot)
        asked, done = await answers(footnote, snapshot, request, emit)
    body = predict_body(request, snapshot, done, began, method_note(snapshot, request.retrieval))
    return kept(footnote, request, snapshot, asked, done, body)


async def answers(
    footnote: Footnote,
    snapshot: Snapshot,
    request: PredictRequest,
    emit: Emit,
    recorded: Sequence[Evidence | None] = (),
) -> tuple[list[str], list[Written | Problem]]:
    """The inputs of a request and their texts. ``recorded``: what was found for each before."""
    inputs, pointers = service.texts(request.input)
    bad = problems_of(footnote, inputs, pointers)
    writer = writer_of(snapshot)

    async def one(text: str, pointer: str, known: Evidence | None) -> Written:
        query = Query(((text[-QUERY_CHARS:], 1),))
        found = await retrieved(footnote, snapshot, query, request, known)
        prompting = completing(text, request.params)
        return await write(footnote, writer, prompting, found, request, emit, pointer)

    done = await answer_all(snapshot, inputs, pointers, bad, one, recorded)
    return [str(text) for text in inputs], done


def problems_of(
    footnote: Footnote, inputs: Sequence[object], pointers: Sequence[str]
) -> list[Problem | None]:
    """What is wrong with each input, if anything."""
    problem_of = footnote.pipeline.problem_of
    return [problem_of(text, p) for text, p in zip(inputs, pointers, strict=True)]


def check(request: PredictRequest) -> None:
    """Raise ``capability-missing`` or ``validation`` for what does not go with written text."""
    if "ablation" in request.explain:
        can = "citations, influence; with retrieval.mode 'off' the same model writes without"
        raise Problem("capability-missing", f"explain: {request.task} can do: {can}.")
    if request.field is not None:
        raise invalid("#/field", f"{request.task} reads texts, not a label field")
    if request.params.labels is not None:
        raise invalid("#/params/labels", f"{request.task} has no labels")
    if request.stream and isinstance(request.input, list) and len(request.input) != 1:
        raise invalid("#/input", "one input can be streamed, not a list")
    service.check_retrieval(request.retrieval)


def refuse_all(bad: Sequence[Problem | None]) -> None:
    """Raise ``validation`` when no input is good."""
    if all(problem is not None for problem in bad):
        errors = [error for problem in bad if problem for error in problem.errors]
        raise Problem("validation", "The request is not valid.", errors=errors)


async def captured(footnote: Footnote, request: PredictRequest) -> Snapshot:
    """The snapshot that a request answers from, pinned where it asks for that."""
    snapshot = await service.captured(footnote, request.retrieval)
    pin = request.pin
    snapshot = await footnote.pins.snapshot(snapshot, pin.model_sha256, pin.index_sequence)
    footnote.pins.note(snapshot.searcher)
    return snapshot


def writer_of(snapshot: Snapshot) -> Writer:
    """The generator. Raises ``capability-missing`` where none is loaded."""
    if snapshot.writer is None:
        can = ", ".join(snapshot.tasks())
        why = next((d for d in snapshot.degraded if "FOOTNOTE_GENERATOR" in d), None)
        told = why or f"Generation needs a generator: set {SETTING}"
        detail = f"Without a generator this server can do: {can}. {told}."
        raise Problem("capability-missing", detail)
    return snapshot.writer


async def retrieved(
    footnote: Footnote,
    snapshot: Snapshot,
    query: Query,
    request: PredictRequest,
    recorded: Evidence | None = None,
) -> tuple[Found, float]:
    """The evidence, and the milliseconds that it took. ``recorded``: instead of looking again."""
    began = time.perf_counter()
    if recorded is None:
        found = await evidence(footnote, snapshot, query, request.retrieval)
    else:
        vector, readable = (None, False) if query.empty else await query_vector(snapshot, query)
        found = Found(recorded.hits, [], vector if readable else None)
    return found, 1000 * (time.perf_counter() - began)


async def answer_all(
    snapshot: Snapshot,
    inputs: Sequence[Any],
    pointers: Sequence[str],
    bad: Sequence[Problem | None],
    one: Callable[[Any, str, Evidence | None], Coroutine[Any, Any, Written]],
    recorded: Sequence[Evidence | None] = (),
) -> list[Written | Problem]:
    """The texts in order; what is wrong with one input alone stands in its place."""
    known = recorded or [None] * len(inputs)
    with snapshot.model().engine.use():
        work = [
            guarded(one(given, pointer, before), alone=len(inputs) == 1)
            for given, pointer, problem, before in zip(inputs, pointers, bad, known, strict=True)
            if problem is None
        ]
        answered = iter(await together(work))
    done = [next(answered) if problem is None else problem for problem in bad]
    refuse_all([d if isinstance(d, Problem) else None for d in done])
    return done


async def guarded(work: Coroutine[Any, Any, Written], *, alone: bool) -> Written | Problem:
    """The text, or what is wrong with its input, which is raised where it is the only one."""
    try:
        return await work
    except Problem as problem:
        if alone or problem.slug != "validation":
            raise
        return problem


def sampling_of(params: Params) -> Sampling:
    """How a request wants its text continued."""
    from model.text_generation.sampling import Sampling

    return Sampling(
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        seed=params.seed,
        stop=tuple(params.stop),
    )


def completing(text: str, params: Params) -> Callable[[Any], Prompting]:
    """Makes, of a generator, what makes a prompt of documents and this text."""
    return lambda generator: (
        lambda hits: generator.completion(text, sources(hits), new=params.max_new_tokens)
    )


@dataclass(frozen=True, slots=True)
class Sourced:
    """A passage as a prompt shows it."""

    title: str | None
    text: str


def sources(hits: Sequence[Hit]) -> list[Sourced]:
    """The passages of hits."""
    return [Sourced(hit.document.title, hit.text) for hit in hits]


async def prompt_of(
    writer: Writer, make: Callable[[Any], Prompting], hits: Sequence[Hit], pointer: str
) -> Prompt:
    """The prompt with the documents. Raises ``validation`` where it does not fit the generator."""
    from model.text_generation.generator import TemplateRefused
    from model.text_generation.prompting import PromptTooLong

    try:
        return await asyncio.wrap_future(writer.call(lambda generator: make(generator)(hits)))
    except PromptTooLong as error:
        raise Problem(
            "validation",
            "The request is not valid.",
            errors=[FieldError(pointer, str(error))],
            more={"code": "context_length_exceeded"},
        ) from None
    except TemplateRefused:
        why = "the generator's chat template does not take these messages"
        raise invalid(pointer, why) from None


async def write(
    footnote: Footnote,
    writer: Writer,
    make: Callable[[Any], Prompting],
    found: tuple[Found, float],
    request: PredictRequest,
    emit: Emit,
    pointer: str,
) -> Written:
    """Write a text from what was found, and say of each sentence what it rests on."""
    (evidence, retrieve_ms), hits = found, found[0].hits
    prompt = await prompt_of(writer, make, hits, pointer)
    emit("retrieval", {"citations": [citation(hit, None, None) for hit in hits]})
    began = time.perf_counter()
    threshold = least_support(footnote, request)
    text, last = "", Piece()
    async with aclosing(pieces(writer, prompt, sampling_of(request.params))) as stream:
        async for piece in stream:
            text, last = text + piece.text, piece
            if piece.text and not threshold:  # else it is not known yet whether it may be said
                emit("token", {"text": piece.text})
    sentences = await grounded(footnote, text, [hits[i] for i in prompt.used])
    abstain_reason = "low_support" if share(sentences) < threshold else None
    influence: dict[int, Influence] = {}
    if "influence" in request.explain and not abstain_reason:
        influence = await influences(writer, make, hits, prompt, last.ids)
    return Written(
        text="" if abstain_reason else text,
        finish=last.finish or "stop",
        sentences=[] if abstain_reason else sentences,
        hits=hits,
        used=prompt.used,
        abstain_reason=abstain_reason,
        notes=[*evidence.notes, *left_out(hits, prompt), *no_confidence(request)],
        influence=influence,
        prompt_tokens=len(prompt.ids),
        new_tokens=len(last.ids),
        queue_ms=1000 * last.waited,
        retrieve_ms=retrieve_ms,
        predict_ms=1000 * (time.perf_counter() - began - last.waited),
    )


async def pieces(writer: Writer, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Piece, None]:
    """The parts of a text as they are written; leaving stops the writing."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Piece] = asyncio.Queue()

    def deliver(piece: Piece) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, piece)

    ticket = writer.write(prompt, sampling, deliver)
    try:
        while True:
            piece = await queue.get()
            if piece.error is not None:
                raise piece.error
            yield piece
            if piece.finish is not None:
                return
    finally:
        ticket.cancel()


async def grounded(footnote: Footnote, text: str, hits: Sequence[Hit]) -> list[Sentence]:
    """The sentences of a text with the passages that hold them."""

    def compare() -> list[Sentence]:
        grounds = [Ground.of(hit.rank, hit.document.title, hit.text) for hit in hits]
        return supported(text, grounds)

    return await asyncio.get_running_loop().run_in_executor(footnote.pipeline.pool, compare)


async def influences(
    writer: Writer,
    make: Callable[[Any], Prompting],
    hits: Sequence[Hit],
    prompt: Prompt,
    ids: Sequence[int],
) -> dict[int, Influence]:
    """What each document in the prompt did: the log-probability of the text with and without it.

    ``flips``: at some place another token would have been the likeliest, so that a greedy text
    would be another.
    """
    inside = [hits[i] for i in prompt.used]
    if not ids or not inside:
        return {}
    left = [[*inside[:i], *inside[i + 1 :]] for i in range(len(inside))]
    others = await asyncio.wrap_future(
        writer.call(lambda generator: [make(generator)(part) for part in left])
    )
    whole, *without = await asyncio.wrap_future(writer.score([prompt, *others], ids))
    return {
        place: Influence(whole.logprob - other.logprob, whole.choices != other.choices)
        for place, other in zip(prompt.used, without, strict=True)
    }


def left_out(hits: Sequence[Hit], prompt: Prompt) -> list[str]:
    """What of documents and prompt the generator does not see."""
    missing = len(hits) - len(prompt.used)
    notes = [f"{missing} of {len(hits)} documents did not fit the generator's context"]
    beside = bool(prompt.passages)
    unseen = f"the first {prompt.unseen} tokens of the prompt are out of the generator's view"
    return [
        *notes * bool(missing),
        *["the last document in the prompt was cut"] * (prompt.cut and not beside),
        *["longer documents were read from their beginning"] * (prompt.cut and beside),
        *[unseen] * bool(prompt.unseen),
    ]


def no_confidence(request: PredictRequest) -> list[str]:
    """A threshold that has no effect."""
    given = request.abstain.min_confidence
    return [f"abstain.min_confidence has no effect on {request.task}"] * (given is not None)
