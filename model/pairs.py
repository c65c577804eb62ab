"""Question and passage as one input of the encoder, with the way back to the passage's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder

OVERLAP = 0.25
"""Share of a window that the window before it holds too."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens without the encoder's marks; `spans`: code points of the text."""

    ids: NDArray[np.int32]  # [t]
    spans: NDArray[np.int32]  # [t, 2]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Pair:
    """`[CLS] question [SEP] passage [SEP]`, for the tokens `first` and following of a passage."""

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

    def join(self, question: Sequence[int], passage: Sequence[int], first: int) -> Pair:
        """One input out of the ids of both."""
        head = [*self.before, *question, *self.between]
        ids = [*head, *passage, *self.after]
        return Pair(ids, len(head), len(head) + len(passage), first, frozenset(question))


def windows(length: int, room: int) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of `room` tokens in which a passage is read, overlapping."""
    if length <= room:
        return [(0, length)]
    step = max(1, room - int(room * OVERLAP))
    starts = [*range(0, length - room, step), length - room]
    return [(start, start + room) for start in starts]
