"""What a request for answers to questions holds, checked."""

from __future__ import annotations

from dataclasses import dataclass

from app.predict import classify as service
from app.problems import FieldError, Problem, invalid
from app.schemas.predict import MAX_QUESTION, PredictRequest


@dataclass(frozen=True, slots=True)
class Question:
    """One checked input and where it stands in the request."""

    text: str
    context: str | None
    pointer: str


def check(request: PredictRequest) -> None:
    """Raise ``capability-missing`` or ``validation`` for what does not go with questions."""
    if request.stream:
        raise Problem("capability-missing", "An answer is not streamed: it comes at once.")
    if "ablation" in request.explain:
        can = "citations, influence; with the book closed there is no answer"
        raise Problem("capability-missing", f"explain: question answering can do: {can}.")
    if request.field is not None:
        raise invalid("#/field", "question answering reads texts, not a label field")
    if request.params.labels is not None:
        raise invalid("#/params/labels", "question answering has no labels")
    service.check_retrieval(request.retrieval)


def questions(given: object, max_chars: int) -> list[Question | Problem]:
    """The questions of a request, or what is wrong with each. Raises when all are bad."""
    single = not isinstance(given, list)
    checked = [
        question(one, "#/input" if single else f"#/input/{i}", max_chars)
        for i, one in enumerate([given] if not isinstance(given, list) else given)
    ]
    bad = [one for one in checked if isinstance(one, Problem)]
    if len(bad) == len(checked):
        errors = [error for problem in bad for error in problem.errors]
        raise Problem("validation", "The request is not valid.", errors=errors)
    return checked


def question(given: object, pointer: str, max_chars: int) -> Question | Problem:
    """One input: a text, or an object with ``question`` and perhaps ``context``."""
    text, context = given, None
    where = pointer
    if isinstance(given, dict):
        unknown = sorted(str(key) for key in given.keys() - {"question", "context"})
        if unknown:
            return wrong(pointer, "an object with question and context, nothing else")
        text, context = given.get("question"), given.get("context")
        where = f"{pointer}/question"
    if not isinstance(text, str):
        return wrong(where, "a question is needed, as a string")
    if not text.strip():
        return wrong(where, "the question is empty")
    if len(text) > MAX_QUESTION:
        return wrong(where, f"{len(text)} characters; a question has at most {MAX_QUESTION}")
    if context is None:
        return Question(text, None, pointer)
    place = f"{pointer}/context"
    if not isinstance(context, str):
        return wrong(place, "must be a string")
    if not context.strip():
        return wrong(place, "the context is empty; leave it out to ask the index")
    if len(context) > max_chars:
        return wrong(place, f"{len(context)} characters; at most {max_chars}")
    return Question(text, context, pointer)


def wrong(pointer: str, why: str) -> Problem:
    """A bad input."""
    error = FieldError(pointer, why)
    return Problem("validation", "The request is not valid.", errors=[error])
