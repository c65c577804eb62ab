"""What texts are written with, seen from a request: prompts, texts in pieces, and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from model.lm.generator import LMGenerator
    from model.text_generation.generator import Generator
    from model.text_generation.prompting import Prompt
    from model.text_generation.sampling import Finish, Sampling

    AnyGenerator = Generator | LMGenerator

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of a text. The last one has ``finish`` and all ids, or ``error``."""

    text: str = ""
    finish: Finish | None = None
    ids: tuple[int, ...] = ()
    waited: float = 0.0  # seconds before the prompt was begun, in the last one
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A known continuation: its log-probability (nats), and the likeliest token at each place."""

    logprob: float
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """What never changes about a loaded generator, to be read from any thread."""

    name: str
    sha256: str
    context: int
    chats: bool  # False: it continues texts, and dialogue is quoted as without it

    def to_json(self) -> dict[str, Any]:
        """The ``generator`` of an answer's ``model``."""
        return {"name": self.name, "sha256": self.sha256}


class Writer(Protocol):
    """What a snapshot writes texts with: a generator on a thread of its own."""

    @property
    def info(self) -> WriterInfo:
        """What is loaded."""

    def call(self, function: Callable[[AnyGenerator], T]) -> Future[T]:
        """Run ``function`` on the generator's thread: prompts are made like this."""

    def write(self, prompt: Prompt, sampling: Sampling, deliver: Callable[[Piece], None]) -> Ticket:
        """Write a text; ``deliver`` is called with its pieces and must not block."""

    def score(self, prompts: Sequence[Prompt], answer: Sequence[int]) -> Future[list[Scored]]:
        """The log-probability of ``answer`` after each of the prompts."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A text that is being written, or waits. ``cancel`` may be called from any thread."""

    prompt: Prompt
    sampling: Sampling
    deliver: Callable[[Piece], None]
    came: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop before the next step; what was written is dropped."""
        self.cancelled = True
