"""Dialogue behind ``POST /predict``: retrieve by the turns, answer from what was found, or say so.

With a generator the answer is written with the documents in its context; without one it is quoted
from them (`app.predict.extraction`). Where nothing bears on the turns, neither is tried. It knows
no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from app.inference.influence import Influence
from app.inference.pipeline import Evidence
from app.inference.snapshot import Snapshot
from app.inference.writer import Writer
from app.predict import text_generation as writing
from app.predict.classify import unused
from app.predict.extraction import Quotable, chosen, framed, nothing, quotables, worded
from app.predict.grounding import Found, Query, method_note
from app.predict.text_answer import Written, citation, kept, predict_body
from app.problems import FieldError, Problem, invalid
from app.schemas.predict import PredictRequest
from app.state import Footnote
from app.web.streaming import Emit, silent
from index_data.search.searcher import Hit
from index_data.text.analysis import detect_language

if TYPE_CHECKING:
    from model.text_generation.prompting import Turn

QUOTED = "an answer that is quoted, not generated"
ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 100
LAST, BEFORE, TURNS = 3, 1, 10  # what a turn weighs in the query: the last, others; how many count


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Checked messages and where they stand in the request."""

    turns: tuple[tuple[Literal["system", "user", "assistant"], str], ...]
    pointer: str

    @property
    def last(self) -> str:
        """What is to be answered."""
        return self.turns[-1][1]

    def query(self) -> Query:
        """What is searched for: the turns, of which the last weighs most."""
        said = [text for role, text in self.turns if role != "system" and text.strip()]
        recent = said[-TURNS:][::-1]
        weights = [LAST, *[BEFORE] * (len(recent) - 1)]
        return Query(tuple(zip(recent, weights, strict=True)))


async def predict(footnote: Footnote, request: PredictRequest, emit: Emit = silent) -> bytes:
    """The answer to ``POST /predict`` with the task ``dialogue``. Raises :class:`Problem`."""
    began = time.perf_counter()
    writing.check(request)
    given = dialogues(request.input, footnote.settings.max_input_chars)
    writing.refuse_all([d if isinstance(d, Problem) else None for d in given])
    with footnote.permits.take(len(given)):
        snapshot = await writing.captured(footnote, request)
        asked, done = await answers(footnote, snapshot, request, emit)
    degraded = method_note(snapshot, request.retrieval)
    body = predict_body(request, snapshot, done, began, degraded)
    return kept(footnote, request, snapshot, asked, done, body)


async def answers(
    footnote: Footnote,
    snapshot: Snapshot,
    request: PredictRequest,
    emit: Emit,
    recorded: Sequence[Evidence | None] = (),
) -> tuple[list[str], list[Written | Problem]]:
    """What each dialogue asks last, and the next turns. ``recorded``: what was found before."""
    given = dialogues(request.input, footnote.settings.max_input_chars)
    bad = [d if isinstance(d, Problem) else None for d in given]

    async def one(dialogue: Dialogue, pointer: str, known: Evidence | None) -> Written:
        return await answer(footnote, snapshot, dialogue, request, emit, known)

    places = [""] * len(given)
    done = await writing.answer_all(snapshot, given, places, bad, one, recorded)
    return [d.last if isinstance(d, Dialogue) else "" for d in given], done


async def answer(
    footnote: Footnote,
    snapshot: Snapshot,
    dialogue: Dialogue,
    request: PredictRequest,
    emit: Emit,
    recorded: Evidence | None = None,
) -> Written:
    """The next turn of one dialogue."""
    query = dialogue.query()
    found, retrieve_ms = await writing.retrieved(footnote, snapshot, query, request, recorded)
    began = time.perf_counter()
    sentences = await quotables(snapshot, query, found)
    quoted = chosen(sentences, found.hits)
    closed = request.retrieval.mode == "off"
    writer = chatter(snapshot)
    if writer is not None and (quoted or closed):
        emitted = (found, retrieve_ms + 1000 * (time.perf_counter() - began))
        written = await writing.write(
            footnote, writer, chatting(dialogue, request), emitted, request, emit,
            dialogue.pointer,
        )  # fmt: skip
        return withheld(written, dialogue) if written.abstain_reason else written
    notes = [*found.notes, *writing.no_confidence(request)]
    if writer is None:
        notes += unused(request.params, QUOTED)
    else:  # nothing is written, but what could not have been is refused all the same
        make = chatting(dialogue, request)
        await writing.prompt_of(writer, make, [], dialogue.pointer)
    emit("retrieval", {"citations": [citation(h, None, None) for h in found.hits]})
    text, places = framed(quoted, found.hits)
    written = Written(
        text=text or nothing(detect_language(dialogue.last)),
        finish="stop",
        sentences=places,
        hits=found.hits,
        used=tuple(sorted({q.place for q in quoted})),
        abstain_reason=None if quoted else "no_evidence" if not found.hits else "low_support",
        notes=notes,
        retrieve_ms=retrieve_ms,
        predict_ms=1000 * (time.perf_counter() - began),
    )
    if "influence" in request.explain and quoted:
        written = replace(written, influence=influences(query, sentences, quoted, found))
    emit("token", {"text": written.text})
    return written


def chatter(snapshot: Snapshot) -> Writer | None:
    """The generator, where it is one that answers the turns of a dialogue."""
    writer = snapshot.writer
    return writer if writer is not None and writer.info.chats else None


def withheld(written: Written, dialogue: Dialogue) -> Written:
    """What was written has too little support: it is not said."""
    return replace(written, text=nothing(detect_language(dialogue.last)))


def chatting(dialogue: Dialogue, request: PredictRequest) -> Callable[[Any], writing.Prompting]:
    """Makes, of a generator, what makes a prompt of documents and these turns."""
    new = request.params.max_new_tokens

    def make(generator: Any) -> writing.Prompting:
        from model.text_generation.prompting import Turn

        turns: list[Turn] = [Turn(role, text) for role, text in dialogue.turns]
        return lambda hits: generator.chat(turns, writing.sources(hits), new=new)

    return make


def influences(
    query: Query, sentences: Sequence[Quotable], quoted: Sequence[Quotable], found: Found
) -> dict[int, Influence]:
    """What each passage did to a quoted answer: what would be quoted without it.

    ``delta``: by which share the best sentence would bear less on the turns.
    """
    hits: list[Hit] = found.hits

    def said(quotes: Sequence[Quotable]) -> list[str]:
        return [hits[q.place].text[q.start : q.end] for q in quotes]

    effects = {}
    for place in range(len(hits)):
        if found.vector is None:
            left = worded(query, hits, without=place)
        else:
            left = [q for q in sentences if q.place != place]
        best = left[0].relevance if left else 0.0
        delta = 1 - best / sentences[0].relevance
        effects[place] = Influence(max(0.0, delta), said(chosen(left, hits)) != said(quoted))
    return effects


def dialogues(given: object, max_chars: int) -> list[Dialogue | Problem]:
    """The dialogues of a request, or what is wrong with each."""
    if isinstance(given, list):
        return [dialogue(one, f"#/input/{i}", max_chars) for i, one in enumerate(given)]
    return [dialogue(given, "#/input", max_chars)]


def dialogue(given: object, pointer: str, max_chars: int) -> Dialogue | Problem:
    """One input: an object with ``messages``, or a text, which is a dialogue of one turn."""
    if isinstance(given, str):
        given = {"messages": [{"role": "user", "content": given}]}
        where = pointer
    else:
        where = f"{pointer}/messages"
    if not isinstance(given, dict) or given.keys() != {"messages"}:
        return invalid(pointer, "an object with messages, nothing else, or a text")
    messages = given["messages"]
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        return invalid(where, f"a list of 1 to {MAX_MESSAGES} messages")
    errors = wrong(messages, where, max_chars)
    if errors:
        return Problem("validation", "The request is not valid.", errors=errors)
    return Dialogue(tuple((m["role"], m["content"]) for m in messages), where)


def wrong(messages: Sequence[Any], where: str, max_chars: int) -> list[FieldError]:
    """What is wrong with messages: each by itself, then their order."""
    errors = [
        FieldError(f"{where}/{i}{place}", why)
        for i, message in enumerate(messages)
        for place, why in wrong_message(message)
    ]
    if errors:
        return errors
    total = sum(len(m["content"]) for m in messages)
    if total > max_chars:
        return [FieldError(where, f"{total} characters; at most {max_chars}")]
    roles = [m["role"] for m in messages]
    said = [(i, role) for i, role in enumerate(roles) if role != "system"]
    if "system" in roles[len(roles) - len(said) :]:
        place = len(roles) - 1 - roles[::-1].index("system")
        return [FieldError(f"{where}/{place}/role", "system messages come before all others")]
    for (_, before), (i, role) in pairwise(said):
        if before == role:
            why = f"two turns of the {role} in a row: user and assistant alternate"
            return [FieldError(f"{where}/{i}/role", why)]
    if not said or said[-1][1] != "user":
        return [FieldError(f"{where}/{len(roles) - 1}/role", "the last turn must be the user's")]
    return []


def wrong_message(message: object) -> list[tuple[str, str]]:
    """(place, what is wrong there) of one message."""
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return [("", "an object with role and content")]
    found = []
    if message["role"] not in ROLES:
        found.append(("/role", f"one of {', '.join(ROLES)}"))
    if not isinstance(message["content"], str):
        found.append(("/content", "must be a string"))
    elif not message["content"].strip():
        found.append(("/content", "the turn is empty"))
    return found
