"""Question and passage as one input of the encoder, with the way back to the passage's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.encoder.encoder import Encoder

OVERLAP = 0.25
"""Share of a window that the window before it holds too."""
TITLE_TOKENS = 20
"""What a title has beyond this is not read."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens without the encoder's marks; `spans`: code points of the text.

    `title`: tokens of what stands over it, which are read before every window of it.
    """

    ids: NDArray[np.int32]  # [t]
    spans: NDArray[np.int32]  # [t, 2]
    title: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def words(self) -> frozenset[int]:
        """All ids, the title's too."""
        return frozenset(self.ids.tolist()).union(self.title)


def tokens_of(encoder: Encoder, texts: Sequence[str], titles: Sequence[str | None]) -> list[Tokens]:
    """Tokenise texts, each with its title, where it has one."""
    heads = encoder.spans([f"{title}." if title else "" for title in titles])
    return [
        Tokens(
            np.array(ids, dtype=np.int32),
            np.array(spans, dtype=np.int32).reshape(-1, 2),
            tuple(head[:TITLE_TOKENS]),
        )
        for (ids, spans), (head, _) in zip(encoder.spans(texts), heads, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Pair:
    """`[CLS] question [SEP] title passage [SEP]`, for tokens of a passage from `first` on."""

    ids: list[int]
    begin: int  # place of the passage's first token
    end: int  # place after its last one
    first: int  # the number of that token in the whole passage
    question: frozenset[int]  # ids of the question's tokens


@dataclass(frozen=True, slots=True)
class Frame:
    """The encoder's own marks around and between two texts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, encoder: Encoder) -> Frame:
        """Read off a pair that the encoder's tokenizer made itself."""
        ids, sides = encoder.pair("a", "b")
        places = [i for i, side in enumerate(sides) if side is not None]
        if not places:
            raise ValueError(f"the tokenizer of {encoder.name} does not know pairs of texts")
        last = max(i for i in places if sides[i] == sides[places[0]])
        then = min((i for i in places if i > last), default=last + 1)
        return cls(
            tuple(ids[: places[0]]), tuple(ids[last + 1 : then]), tuple(ids[places[-1] + 1 :])
        )

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def join(self, question: Sequence[int], passage: Tokens, first: int, stop: int) -> Pair:
        """One input out of the ids of a question and some tokens of a passage."""
        head = [*self.before, *question, *self.between, *passage.title]
        part = passage.ids[first:stop].tolist()
        ids = [*head, *part, *self.after]
        return Pair(ids, len(head), len(head) + len(part), first, frozenset(question))


def windows(length: int, room: int) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of `room` tokens in which a passage is read, overlapping."""
    if length <= room:
        return [(0, length)]
    step = max(1, room - int(room * OVERLAP))
    starts = [*range(0, length - room, step), length - room]
    return [(start, start + room) for start in starts]
