"""The influence of each hit on an answer or on entities: the same again without it.

An answer is weighed again from the logits of its passages, which are kept, so that nothing is read
twice. For named entities the text is read again, because the hits are part of the tagger's input.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from app.schemas.prediction import EntityChange, Influence

if TYPE_CHECKING:
    from app.inference.engine import Engine
    from model.ner.evidence import TagHit
    from model.ner.tagger import Entity, TagAnswer
    from model.qa.answers import SpanAnswer
    from model.reader import Reader

T = TypeVar("T")
ANSWERS_AT_ONCE = 8  # answers weighed between two looks at what other requests wait for
TEXTS_AT_ONCE = 4  # texts read between two looks
MOVED = 0.01  # the smallest change of an entity's score that is shown


async def passage_influences(
    engine: Engine, head: str, whole: SpanAnswer, passages: Sequence[int]
) -> dict[int, Influence]:
    """The influence of some of the passages that an answer was found in.

    ``delta`` is of the likeliest answer's probability, withheld or not; ``flips``: another answer
    is the likeliest one, or there is one only with the passage, or only without it.
    """

    def answers(part: Sequence[int], reader: Reader) -> list[SpanAnswer]:
        spans = reader.spans(head)
        return [spans.answer(whole.read.without(passage)) for passage in part]

    best = whole.spans[0] if whole.spans else None
    effects: dict[int, Influence] = {}
    async for passage, other in _without(engine, passages, ANSWERS_AT_ONCE, answers):
        delta = best.prob - other.prob_of(best.text) if best else 0.0
        effects[passage] = Influence(delta=delta, flips=other.answered != whole.answered)
    return effects


async def sentence_influences(
    engine: Engine,
    head: str,
    text: str,
    hits: Sequence[TagHit],
    whole: Sequence[Entity],
    removed: Sequence[int],
    chosen: Callable[[TagAnswer], list[Entity]],
) -> dict[int, Influence]:
    """The influence of some of the labelled sentences on the entities ``whole`` of a text.

    ``chosen``: those of the types that a request names. See :class:`EntityChange`.
    """

    def tagged(part: Sequence[int], reader: Reader) -> list[TagAnswer]:
        left = [[*hits[:i], *hits[i + 1 :]] for i in part]
        return reader.tagger(head).answer([text] * len(part), left)

    answers = _without(engine, removed, TEXTS_AT_ONCE, tagged)
    return {i: compared(whole, chosen(other)) async for i, other in answers}


async def _without(
    engine: Engine,
    places: Sequence[int],
    at_once: int,
    answer: Callable[[Sequence[int], Reader], list[T]],
) -> AsyncIterator[tuple[int, T]]:
    """Each of some hits with the answer without it; ``at_once`` of them in one call."""
    for start in range(0, len(places), at_once):
        part = places[start : start + at_once]
        others = await asyncio.wrap_future(engine.call(partial(answer, part)))
        for place, other in zip(part, others, strict=True):
            yield place, other


def compared(whole: Sequence[Entity], other: Sequence[Entity]) -> Influence:
    """The changes of the entities; ``delta`` is the largest change of a score, in size."""
    before, after = ({(e.start, e.end, e.type): e for e in side} for side in (whole, other))
    changes = []
    for key in sorted({*before, *after}):
        entity = before.get(key) or after[key]
        score = before[key].score if key in before else 0.0
        without = after[key].score if key in after else 0.0
        changes.append(
            EntityChange(
                text=entity.text,
                type=entity.type,
                start=entity.start,
                end=entity.end,
                score=score,
                without=without,
            )
        )
    delta = max((c.score - c.without for c in changes), key=abs, default=0.0)
    shown = [c for c in changes if abs(c.score - c.without) >= MOVED or not (c.score and c.without)]
    return Influence(delta=delta, flips=before.keys() != after.keys(), entities=shown)
