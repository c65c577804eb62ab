"""The inputs of the task ``qa``: questions, perhaps each with the text to read."""

from __future__ import annotations

from dataclasses import dataclass

from app.problems import Problem, invalid
from app.schemas.predict import MAX_QUESTION


@dataclass(frozen=True, slots=True)
class QaRequest:
    """One checked question, and the context to read instead of the index, if there is one."""

    text: str
    context: str | None = None

    @property
    def has_words(self) -> bool:
        """Whether there is a word to look for: emoji and marks alone find chance neighbours."""
        return any(map(str.isalnum, self.text))


def questions(given: object, max_chars: int) -> list[QaRequest | Problem]:
    """The questions of a request, or what is wrong with each."""
    if isinstance(given, list):
        return [question(one, f"#/input/{i}", max_chars) for i, one in enumerate(given)]
    return [question(given, "#/input", max_chars)]


def question(given: object, pointer: str, max_chars: int) -> QaRequest | Problem:
    """One input: a text, or an object with ``question`` and perhaps ``context``."""
    text, context, place = given, None, pointer
    if isinstance(given, dict):
        if given.keys() - {"question", "context"}:
            return invalid(pointer, "an object with question and context, nothing else")
        text, context = given.get("question"), given.get("context")
        place = f"{pointer}/question"
    if not isinstance(text, str):
        return invalid(place, "a question is needed, as a string")
    if not text.strip():
        return invalid(place, "the question is empty")
    if len(text) > MAX_QUESTION:
        return invalid(place, f"{len(text)} characters; a question has at most {MAX_QUESTION}")
    if context is None:
        return QaRequest(text)
    place = f"{pointer}/context"
    if not isinstance(context, str):
        return invalid(place, "must be a string")
    if not context.strip():
        return invalid(place, "the context is empty; leave it out to ask the index")
    if len(context) > max_chars:
        return invalid(place, f"{len(context)} characters; at most {max_chars}")
    return QaRequest(text, context)
