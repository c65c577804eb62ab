"""A text with its sources: the answer of the tasks that generate text or quote it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from app.inference.answer import Answered, Cited, Evidence
from app.predict.grounding import Sentence, weights
from app.predict.inputs import check_no_ablation, check_no_labels, with_thresholds
from app.predict.task import Context, Task, citation, item_body
from app.problems import Problem, invalid
from app.schemas.predict import TaskRequest
from app.schemas.prediction import Influence
from app.settings import Settings
from index_data.search.searcher import Hit

Input = TypeVar("Input")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAnswer(Answered):
    """A text, and its sentences with what they rest on."""

    text: str
    finish: str
    sentences: list[Sentence]


class TextTask(Task[Input, TextAnswer]):
    """A task whose answers are texts."""

    generates = True

    def check(self, request: TaskRequest, settings: Settings) -> TaskRequest:
        """The request with the server's least support. Raises :class:`Problem`."""
        check_no_ablation(request, "; set retrieval.mode to 'off' for an answer without retrieval")
        check_no_labels(request)
        if request.stream and isinstance(request.input, list) and len(request.input) != 1:
            raise invalid("#/input", "one input can be streamed, not a list")
        return with_thresholds(request, settings, ("min_support",))

    async def answer(
        self, context: Context, given: Input, recorded: Evidence | None
    ) -> TextAnswer | Problem:
        """The text for one input, or what is wrong with this input alone."""
        try:
            return await self.text_for(context, given, recorded)
        except Problem as problem:
            if problem.slug != "validation":
                raise
            return problem

    @abstractmethod
    async def text_for(
        self, context: Context, given: Input, recorded: Evidence | None
    ) -> TextAnswer:
        """The text for one input. Raises ``validation`` for an input that does not fit."""

    @abstractmethod
    def shown(self, text: str) -> dict[str, Any]:
        """The text as the task shows it."""

    def item(self, request: TaskRequest, answer: TextAnswer) -> dict[str, Any]:
        """The text with its sentences."""
        sentences = [sentence.to_json() for sentence in answer.sentences]
        output = {"finish_reason": answer.finish, "sentences": sentences}
        return item_body(request, answer, {"output": {**self.shown(answer.text), **output}})


def confidence_unused(request: TaskRequest) -> list[str]:
    """A warning about a threshold that has no effect."""
    given = request.abstain.min_confidence
    return [f"abstain.min_confidence has no effect on {request.task}"] * (given is not None)


def cited_passages(
    hits: Sequence[Hit], sentences: Sequence[Sentence], influence: Mapping[int, Influence]
) -> list[Cited]:
    """All passages with their shares in a text. ``influence``: by place in ``hits``."""
    shares = weights(sentences, [hit.rank for hit in hits])
    return [Cited(hit, shares[hit.rank], influence.get(i)) for i, hit in enumerate(hits)]


def retrieval_event(hits: Sequence[Hit]) -> dict[str, Any]:
    """The event ``retrieval``: the passages; their weights are not known before the text is."""
    bodies = [citation(Cited(hit, 0.0), "label") for hit in hits]
    for body in bodies:
        del body["weight"]
    return {"citations": bodies}
