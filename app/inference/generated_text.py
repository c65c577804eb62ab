"""What a generator hands to a request: a text in pieces, scores, and what it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.lm.generator import LMGenerator
    from model.text_generation.generator import Generator
    from model.text_generation.prompting import Prompt
    from model.text_generation.sampling import Finish, Sampling

    AnyGenerator = Generator | LMGenerator


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
class GeneratorInfo:
    """What never changes about a loaded generator, to be read from any thread."""

    name: str
    sha256: str
    context: int
    chats: bool  # False: it continues texts, and dialogue is quoted as without it

    def to_json(self) -> dict[str, Any]:
        """The ``generator`` of an answer's ``model``."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(slots=True, eq=False)
class Ticket:
    """A text that is being generated, or waits. ``cancel`` may be called from any thread."""

    prompt: Prompt
    sampling: Sampling
    deliver: Callable[[Piece], None]
    came: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop before the next step; what was generated is dropped."""
        self.cancelled = True
