"""The inputs of the task ``dialogue``: messages, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from app.predict.passages import Query
from app.problems import FieldError, Problem, invalid

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 100
LAST, BEFORE, TURNS = 3, 1, 10  # weights in the query: of the last turn, of others; how many count


@dataclass(frozen=True, slots=True)
class Conversation:
    """Checked messages and their place in the request."""

    turns: tuple[tuple[Literal["system", "user", "assistant"], str], ...]
    pointer: str

    @property
    def last(self) -> str:
        """What is to be answered."""
        return self.turns[-1][1]

    def query(self) -> Query:
        """What is searched for: the turns, of which the last weighs most."""
        spoken = [text for role, text in self.turns if role != "system" and text.strip()]
        recent = spoken[-TURNS:][::-1]
        weights = [LAST, *[BEFORE] * (len(recent) - 1)]
        return Query(tuple(zip(recent, weights, strict=True)))


def conversation(given: object, pointer: str, max_chars: int) -> Conversation | Problem:
    """One input: an object with ``messages``, or a text, which is the first turn."""
    if isinstance(given, str):
        given = {"messages": [{"role": "user", "content": given}]}
        place = pointer
    else:
        place = f"{pointer}/messages"
    if not isinstance(given, dict) or given.keys() != {"messages"}:
        return invalid(pointer, "an object with messages, nothing else, or a text")
    messages = given["messages"]
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        return invalid(place, f"a list of 1 to {MAX_MESSAGES} messages")
    errors = wrong(messages, place, max_chars)
    if errors:
        return Problem("validation", "The request is not valid.", errors=errors)
    return Conversation(tuple((m["role"], m["content"]) for m in messages), place)


def wrong(messages: Sequence[Any], pointer: str, max_chars: int) -> list[FieldError]:
    """What is wrong with messages: each by itself, then their order."""
    errors = [
        FieldError(f"{pointer}/{i}{place}", why)
        for i, message in enumerate(messages)
        for place, why in wrong_message(message)
    ]
    if errors:
        return errors
    total = sum(len(m["content"]) for m in messages)
    if total > max_chars:
        return [FieldError(pointer, f"{total} characters; at most {max_chars}")]
    return wrong_order([m["role"] for m in messages], pointer)


def wrong_order(roles: Sequence[str], pointer: str) -> list[FieldError]:
    """What is wrong with the order of roles: system first, then turns that end with the user's."""
    turns = [(i, role) for i, role in enumerate(roles) if role != "system"]
    if "system" in roles[len(roles) - len(turns) :]:
        place = len(roles) - 1 - roles[::-1].index("system")
        return [FieldError(f"{pointer}/{place}/role", "system messages come before all others")]
    for (_, before), (i, role) in pairwise(turns):
        if before == role:
            why = f"two turns of the {role} in a row: user and assistant alternate"
            return [FieldError(f"{pointer}/{i}/role", why)]
    if not turns or turns[-1][1] != "user":
        return [FieldError(f"{pointer}/{len(roles) - 1}/role", "the last turn must be the user's")]
    return []


def wrong_message(message: object) -> list[tuple[str, str]]:
    """(place, what is wrong there) of one message."""
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return [("", "an object with role and content")]
    errors = []
    if message["role"] not in ROLES:
        errors.append(("/role", f"one of {', '.join(ROLES)}"))
    if not isinstance(message["content"], str):
        errors.append(("/content", "must be a string"))
    elif not message["content"].strip():
        errors.append(("/content", "the turn is empty"))
    return errors
