"""In-context retrieval: retrieved documents and a prompt, or a dialogue, within a context length.

Documents stand before the text, numbered by their rank, the best ones as far as there is room; the
first that does not fit whole is cut at a sentence or word (Ram et al. 2023, In-Context RALM).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

CHARS_PER_TOKEN = 16  # at most
LEAST = 24  # tokens of a document that is cut; less is left out
_BREAK = re.compile(r"[.!?。！？][\"')\]”’」』]*\s*|\n+")

INSTRUCTION = (
    "Answer from the numbered documents below, in the language of the question. "
    "If they do not hold the answer, say so; add nothing of your own."
)
NO_DOCUMENTS = "Answer briefly."
# For a model without a chat template of its own. A new turn of the user ends the answer.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% else %}Assistant: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOP = ("\nUser:",)


class Source(Protocol):
    """A retrieved document, as far as a prompt is concerned."""

    @property
    def title(self) -> str | None:
        """Its title, if it has one."""

    @property
    def text(self) -> str:
        """The passage."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a dialogue."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a generator reads. ``used``: places of the documents that are in it, whole or cut.

    ``passages``: the tokens of the documents, for a generator that reads them beside the prompt.
    """

    ids: tuple[int, ...]
    used: tuple[int, ...]
    stop: tuple[str, ...] = ()
    cut: bool = False  # not all of them are whole
    passages: tuple[tuple[int, ...], ...] = ()
    unseen: int = 0  # tokens at the beginning that are out of view already


class PromptTooLong(ValueError):
    """A prompt that leaves no room for the answer, without any document."""

    def __init__(self, tokens: int, new: int, context: int) -> None:
        super().__init__(
            f"the prompt has {tokens} tokens and {new} are to be written; the generator's context "
            f"is {context}"
        )


def check_length(chars: int, new: int, context: int) -> None:
    """Refuse a text that cannot fit before its tokens are counted. Raises `PromptTooLong`."""
    if chars > CHARS_PER_TOKEN * context:
        raise PromptTooLong(chars // CHARS_PER_TOKEN, new, context)


def headed(title: str | None, text: str) -> str:
    """A document under its title."""
    return f"{title}\n{text}" if title else text


def fitted(
    render: Callable[[Sequence[str]], Sequence[int]],
    count: Callable[[str], int],
    documents: Sequence[Source],
    *,
    new: int,
    context: int,
) -> tuple[list[int], list[int], bool]:
    """The prompt's ids with as many documents as fit, which ones, and whether the last was cut.

    ``render`` makes the ids of a prompt with some blocks, ``count`` counts the tokens of a text.
    Raises :class:`PromptTooLong` where it does not fit even without documents.
    """
    ids = list(render([]))
    room = context - new
    if len(ids) > room:
        raise PromptTooLong(len(ids), new, context)
    blocks: list[str] = []
    cut = False
    left = room - len(ids)
    for number, document in enumerate(documents, 1):
        text = f"[{number}] {headed(document.title, document.text)}"
        tokens = count(text) + 2  # the empty line behind it
        if tokens > left:
            text = shortened(text, left - 2, count) if left >= LEAST else ""
            cut = bool(text)
        if text:
            blocks.append(text)
        left -= tokens
        if left < 0:
            break
    while blocks:
        # Tokens of the parts do not quite add up to those of the whole.
        whole = list(render(blocks))
        if len(whole) <= room:
            return whole, list(range(len(blocks))), cut
        blocks.pop()
        cut = False
    return ids, [], False


def shortened(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """The beginning of a text within so many tokens, to the end of a sentence or of a word."""
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    fitting = text[:low]
    ends = [match.end() for match in _BREAK.finditer(fitting)]
    if ends and ends[-1] * 2 >= low:
        return fitting[: ends[-1]].rstrip()
    head, space, _ = fitting.rpartition(" ")
    return head if space else fitting
