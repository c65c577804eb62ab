"""The task ``dialogue``: retrieve by the turns, then answer from the passages or not at all.

With a generator the answer is generated with the passages in its context; without one it is quoted
from them (`app.predict.extraction`). Where no passage is relevant to the turns, neither is tried.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from app.inference.answer import Evidence
from app.inference.generator_engine import GeneratorEngine
from app.inference.snapshot import Snapshot
from app.predict.extraction import Quotable, chosen, framed, nothing, quotables, worded
from app.predict.grounding import share
from app.predict.inputs import TextInput, each, unused
from app.predict.messages import Conversation, conversation
from app.predict.passages import Passages, Query, retrieve
from app.predict.task import Context
from app.predict.text_answer import (
    TextAnswer,
    TextTask,
    cited_passages,
    confidence_unused,
    retrieval_event,
)
from app.predict.text_generation import Prompting, generate, prompt_of
from app.problems import Problem
from app.schemas.predict import Params, TaskRequest
from app.schemas.prediction import Influence
from app.settings import Settings
from index_data.search.searcher import Hit
from index_data.text.analysis import detect_language

if TYPE_CHECKING:
    from model.text_generation.prompting import Prompt

QUOTED = "an answer that is quoted, not generated"


class Dialogue(TextTask[Conversation]):
    """The assistant's next turn."""

    def read(self, request: TaskRequest, settings: Settings) -> list[Conversation | Problem]:
        """An object with ``messages``, a text, or a list of these."""
        return each(request.input, partial(conversation, max_chars=settings.max_input_chars))

    async def text_for(
        self, context: Context, given: Conversation, recorded: Evidence | None
    ) -> TextAnswer:
        """The next turn of one conversation."""
        query = given.query()
        passages = await retrieve(context, query, recorded)
        began = time.perf_counter()
        sentences = await quotables(context.snapshot, query, passages)
        quoted = chosen(sentences, passages.hits)
        generator, request = chat_generator(context.snapshot), context.request
        prompting, turn = chatting(given, request.params), TextInput(given.last, given.pointer)
        if generator is not None and (quoted or request.retrieval.mode == "off"):
            compare_ms = 1000 * (time.perf_counter() - began)
            passages = replace(passages, retrieve_ms=passages.retrieve_ms + compare_ms)
            answer = await generate(context, prompting, passages, turn)
            if answer.abstain_reason:
                answer = replace(answer, text=nothing(detect_language(given.last)))
            return answer
        warnings = [*passages.warnings, *confidence_unused(request)]
        if generator is None:
            warnings += unused(request.params, QUOTED)
        else:  # nothing is generated, but a prompt that does not fit is refused all the same
            await prompt_of(generator, prompting, [], given.pointer)
        context.emit("retrieval", retrieval_event(passages.hits))
        answer = quotation(given, quoted, passages, warnings, began)
        if "influence" in request.explain and quoted:
            effects = influences(query, sentences, quoted, passages)
            cited = cited_passages(passages.hits, answer.sentences, effects)
            answer = replace(answer, cited=cited)
        context.emit("token", {"text": answer.text})
        return answer

    def shown(self, text: str) -> dict[str, Any]:
        """The text as a message."""
        return {"message": {"role": "assistant", "content": text}}


def chat_generator(snapshot: Snapshot) -> GeneratorEngine | None:
    """The generator, where it is one that answers the turns of a dialogue."""
    generator = snapshot.generator
    return generator if generator is not None and generator.info.chats else None


def chatting(given: Conversation, params: Params) -> Prompting:
    """Prompts of passages and these turns."""

    def of(model: Any, hits: Sequence[Hit]) -> Prompt:
        from model.text_generation.prompting import Turn

        turns = [Turn(role, text) for role, text in given.turns]
        prompt: Prompt = model.chat(turns, hits, new=params.max_new_tokens)
        return prompt

    return of


def quotation(
    given: Conversation,
    quoted: Sequence[Quotable],
    passages: Passages,
    warnings: list[str],
    began: float,
) -> TextAnswer:
    """The quoted sentences as an answer; without any, that there is nothing.

    ``began``: when the sentences began to be compared, by ``time.perf_counter``.
    """
    hits = passages.hits
    text, sentences = framed(quoted, hits)
    used = {q.place for q in quoted}
    return TextAnswer(
        text=text or nothing(detect_language(given.last)),
        finish="stop",
        sentences=sentences,
        support=round(share(sentences), 6),
        cited=cited_passages(hits, sentences, {}),
        abstain_reason=None if quoted else "no_evidence" if not hits else "low_support",
        input_text=given.last,
        evidence=Evidence(hits),
        retrieved=len(hits),
        used=len(used),
        tokens=0,
        retrieve_ms=passages.retrieve_ms,
        predict_ms=1000 * (time.perf_counter() - began),
        warnings=warnings,
    )


def influences(
    query: Query, sentences: Sequence[Quotable], quoted: Sequence[Quotable], passages: Passages
) -> dict[int, Influence]:
    """What each passage did to a quoted answer: what would be quoted without it.

    ``delta``: by which share the best sentence would be less relevant to the turns.
    """
    hits = passages.hits

    def texts(quotes: Sequence[Quotable]) -> list[str]:
        return [hits[q.place].text[q.start : q.end] for q in quotes]

    effects = {}
    for place in range(len(hits)):
        if passages.vector is None:
            left = worded(query, hits, without=place)
        else:
            left = [q for q in sentences if q.place != place]
        best = left[0].relevance if left else 0.0
        delta = 1 - best / sentences[0].relevance
        flips = texts(chosen(left, hits)) != texts(quoted)
        effects[place] = Influence(delta=max(0.0, delta), flips=flips)
    return effects
