"""What the tasks share in checking a request and reading its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from app.problems import Problem, invalid
from app.schemas.predict import Params, Retrieval, TaskRequest
from app.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TextInput:
    """A text and its place in the request."""

    text: str
    pointer: str


def each(given: object, read: Callable[[object, str], T | Problem]) -> list[T | Problem]:
    """What ``read`` makes of the input, or of each in a list, and of its pointer."""
    if isinstance(given, list):
        return [read(one, f"#/input/{i}") for i, one in enumerate(given)]
    return [read(given, "#/input")]


def texts(given: str | Sequence[object] | dict[str, Any], most: int) -> list[TextInput | Problem]:
    """The texts of a request, of at most ``most`` characters. Raises ``validation``."""
    if isinstance(given, dict):
        raise invalid("#/input", "this task takes a text or a list of texts")
    return each(given, partial(text_input, most=most))


def text_input(text: object, pointer: str, most: int) -> TextInput | Problem:
    """One text, or what is wrong with it."""
    if not isinstance(text, str):
        return invalid(pointer, "must be a string")
    if not text or text.isspace():
        return invalid(pointer, "the text is empty")
    if len(text) > most:
        return invalid(pointer, f"{len(text)} characters; at most {most}")
    return TextInput(text, pointer)


def refuse_all(inputs: Sequence[object]) -> None:
    """Raise ``validation`` when every input is a problem."""
    problems = [one for one in inputs if isinstance(one, Problem)]
    if len(problems) < len(inputs):
        return
    if len(problems) == 1:
        raise problems[0]
    errors = [error for problem in problems for error in problem.errors]
    raise Problem("validation", "The request is not valid.", errors=errors)


def with_thresholds(
    request: TaskRequest,
    settings: Settings,
    names: Sequence[str] = ("min_confidence", "min_support"),
) -> TaskRequest:
    """The request with the server's thresholds where it has none."""
    own = {n: getattr(settings, n) for n in names if getattr(request.abstain, n) is None}
    return request.model_copy(update={"abstain": request.abstain.model_copy(update=own)})


def check_retrieval(retrieval: Retrieval) -> None:
    """Raise ``validation`` for fields that do not go with the mode."""
    if retrieval.mode == "provided" and not retrieval.documents:
        raise invalid("#/retrieval/documents", "mode 'provided' needs documents")
    if retrieval.mode != "provided" and retrieval.documents:
        raise invalid("#/retrieval/documents", "only mode 'provided' takes documents")
    if retrieval.mode == "provided" and retrieval.filter is not None:
        raise invalid("#/retrieval/filter", "only mode 'index' takes a filter")
    if retrieval.mode == "provided" and retrieval.evidence is not None:
        why = "only mode 'index' takes it: documents that are provided are all evidence"
        raise invalid("#/retrieval/evidence", why)


def check_no_labels(request: TaskRequest) -> None:
    """Raise ``validation`` for what only concerns labels."""
    if request.field is not None:
        raise invalid("#/field", f"the task '{request.task}' reads texts, not a label field")
    if request.params.labels is not None:
        raise invalid("#/params/labels", f"the task '{request.task}' has no labels")


def check_no_ablation(request: TaskRequest, instead: str = "") -> None:
    """Raise ``capability-missing`` where an ablation is requested of a task that has none."""
    if "ablation" in request.explain:
        detail = f"explain: the task '{request.task}' can do: citations, influence{instead}."
        raise Problem("capability-missing", detail)


def unused(params: Params, task: str) -> list[str]:
    """Warnings about parameters of text generation, which have no effect on other tasks."""
    generation = {"max_new_tokens", "temperature", "top_p", "seed", "stop"}
    return [
        f"params.{name} has no effect on {task}"
        for name in sorted(params.model_fields_set & generation)
    ]
