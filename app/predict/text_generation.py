"""The task ``generation``: retrieve, put the passages before the prompt, generate, and ground.

What the generated sentences rest on is found afterwards in the retrieved text
(`app.predict.grounding`), never asked of the model. The task ``dialogue`` generates by the same
function.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from app.inference.answer import Evidence
from app.inference.generated_text import Piece
from app.inference.generator_engine import GeneratorEngine
from app.inference.snapshot import Snapshot
from app.predict.grounding import Sentence, Source, grounded, share
from app.predict.inputs import TextInput, texts
from app.predict.passages import Passages, Query, retrieve
from app.predict.task import Context
from app.predict.text_answer import (
    TextAnswer,
    TextTask,
    cited_passages,
    confidence_unused,
    retrieval_event,
)
from app.problems import FieldError, Problem, invalid
from app.schemas.predict import Params, TaskRequest
from app.schemas.prediction import Influence
from app.settings import Settings
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.text_generation.prompting import Prompt
    from model.text_generation.sampling import Sampling

QUERY_CHARS = 2_000  # of a prompt, from its end, that is searched with
SETTING = "FOOTNOTE_GENERATOR (a folder or hub id of a causal or sequence-to-sequence model)"
# What makes a prompt for a generating model, of some passages.
Prompting = Callable[[Any, Sequence[Hit]], "Prompt"]


class TextGeneration(TextTask[TextInput]):
    """A continuation of the prompt by the generator that the server has."""

    def read(self, request: TaskRequest, settings: Settings) -> list[TextInput | Problem]:
        """A prompt, or a list of prompts."""
        return texts(request.input, settings.max_input_chars)

    def missing(self, snapshot: Snapshot) -> str | None:
        """A server without a generator."""
        if snapshot.generator is not None:
            return None
        why = next((d for d in snapshot.degraded if "FOOTNOTE_GENERATOR" in d), None)
        return f"{why or f'Generation needs a generator: set {SETTING}'}."

    async def text_for(
        self, context: Context, given: TextInput, recorded: Evidence | None
    ) -> TextAnswer:
        """The continuation of one prompt, and what it rests on."""
        passages = await retrieve(context, Query(((given.text[-QUERY_CHARS:], 1),)), recorded)
        most = context.request.params.max_new_tokens

        def prompting(model: Any, hits: Sequence[Hit]) -> Prompt:
            prompt: Prompt = model.completion(given.text, hits, new=most)
            return prompt

        return await generate(context, prompting, passages, given)

    def shown(self, text: str) -> dict[str, Any]:
        """The text itself."""
        return {"text": text}


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


async def prompt_of(
    generator: GeneratorEngine, prompting: Prompting, hits: Sequence[Hit], pointer: str
) -> Prompt:
    """The prompt with the passages. Raises ``validation`` where it does not fit the generator."""
    from model.text_generation.generator import TemplateRefused
    from model.text_generation.prompting import PromptTooLong

    try:
        return await asyncio.wrap_future(generator.call(lambda model: prompting(model, hits)))
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


async def generate(
    context: Context, prompting: Prompting, passages: Passages, given: TextInput
) -> TextAnswer:
    """A text generated from the passages, with what each of its sentences rests on.

    ``given``: the input, for its place and for feedback. With a threshold for the support no
    token is emitted: it is not known yet whether the text may be shown.
    """
    generator, request, hits = context.snapshot.generator, context.request, passages.hits
    assert generator is not None  # `missing` has looked
    prompt = await prompt_of(generator, prompting, hits, given.pointer)
    context.emit("retrieval", retrieval_event(hits))
    began = time.perf_counter()
    threshold = request.abstain.min_support or 0.0
    text, last = "", Piece()
    async with aclosing(pieces(generator, prompt, sampling_of(request.params))) as stream:
        async for piece in stream:
            text, last = text + piece.text, piece
            if piece.text and not threshold:
                context.emit("token", {"text": piece.text})
    sentences = await ground(context, text, [hits[i] for i in prompt.used])
    abstains = share(sentences) < threshold
    influence: dict[int, Influence] = {}
    if "influence" in request.explain and not abstains:
        influence = await influences(generator, prompting, hits, prompt, last.ids)
    shown = [] if abstains else sentences
    return TextAnswer(
        text="" if abstains else text,
        finish=last.finish or "stop",
        sentences=shown,
        support=round(share(shown), 6),
        abstain_reason="low_support" if abstains else None,
        cited=cited_passages(hits, shown, influence),
        input_text=given.text,
        evidence=Evidence(hits),
        retrieved=len(hits),
        used=len(prompt.used),
        tokens=len(prompt.ids),
        new_tokens=len(last.ids),
        queue_ms=1000 * last.waited,
        retrieve_ms=passages.retrieve_ms,
        predict_ms=1000 * (time.perf_counter() - began - last.waited),
        warnings=[*passages.warnings, *left_out(hits, prompt), *confidence_unused(request)],
    )


async def pieces(
    generator: GeneratorEngine, prompt: Prompt, sampling: Sampling
) -> AsyncGenerator[Piece, None]:
    """The parts of a text as they are generated; closing the generator stops the model."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Piece] = asyncio.Queue()

    def deliver(piece: Piece) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, piece)

    ticket = generator.generate(prompt, sampling, deliver)
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


async def ground(context: Context, text: str, hits: Sequence[Hit]) -> list[Sentence]:
    """The sentences of a text with the passages that hold them, found on a retrieval thread."""

    def compare() -> list[Sentence]:
        return grounded(text, [Source.of(h.rank, h.title, h.text) for h in hits])

    return await asyncio.get_running_loop().run_in_executor(context.pipeline.pool, compare)


async def influences(
    generator: GeneratorEngine,
    prompting: Prompting,
    hits: Sequence[Hit],
    prompt: Prompt,
    ids: Sequence[int],
) -> dict[int, Influence]:
    """What each passage in the prompt did: the log-probability of the text with and without it.

    ``flips``: at some place another token would have been the likeliest, so that a greedy text
    would be another.
    """
    inside = [hits[i] for i in prompt.used]
    if not ids or not inside:
        return {}
    left = [[*inside[:i], *inside[i + 1 :]] for i in range(len(inside))]
    others = await asyncio.wrap_future(
        generator.call(lambda model: [prompting(model, part) for part in left])
    )
    whole, *without = await asyncio.wrap_future(generator.score([prompt, *others], ids))
    return {
        place: Influence(delta=whole.logprob - other.logprob, flips=whole.choices != other.choices)
        for place, other in zip(prompt.used, without, strict=True)
    }


def left_out(hits: Sequence[Hit], prompt: Prompt) -> list[str]:
    """Warnings about passages and parts of the prompt that the generator does not see."""
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
