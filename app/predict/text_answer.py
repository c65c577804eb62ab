"""A text with its sources: the answer of the tasks that generate text or quote it."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from app.inference.answer import Cited
from app.inference.influence import Influence
from app.predict.grounding import Sentence, share, weights
from app.predict.inputs import check_no_ablation, check_no_labels
from app.predict.task import Answered, citation, cites
from app.problems import Problem, invalid
from app.schemas.predict import TaskRequest
from app.settings import Settings
from index_data.search.searcher import Hit


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAnswer(Answered):
    """A text, its sentences with what they rest on, and the passages that were found."""

    text: str
    finish: str
    sentences: list[Sentence]
    hits: list[Hit]
    abstain_reason: str | None = None  # why nothing is answered
    influence: dict[int, Influence] = field(default_factory=dict)  # by place in ``hits``


def check_text(request: TaskRequest, settings: Settings) -> TaskRequest:
    """The request with the server's least support. Raises :class:`Problem`."""
    check_no_ablation(request, "; set retrieval.mode to 'off' for an answer without retrieval")
    check_no_labels(request)
    if request.stream and isinstance(request.input, list) and len(request.input) != 1:
        raise invalid("#/input", "one input can be streamed, not a list")
    if request.abstain.min_support is not None:
        return request
    abstain = request.abstain.model_copy(update={"min_support": settings.min_support})
    return request.model_copy(update={"abstain": abstain})


def confidence_unused(request: TaskRequest) -> list[str]:
    """A warning about a threshold that has no effect."""
    given = request.abstain.min_confidence
    return [f"abstain.min_confidence has no effect on {request.task}"] * (given is not None)


async def or_problem(work: Coroutine[Any, Any, TextAnswer]) -> TextAnswer | Problem:
    """The answer, or what is wrong with this input alone."""
    try:
        return await work
    except Problem as problem:
        if problem.slug != "validation":
            raise
        return problem


def text_item(request: TaskRequest, answer: TextAnswer, output: dict[str, Any]) -> dict[str, Any]:
    """The element of ``data``. ``output``: the text as the task shows it."""
    sentences = [sentence.to_json() for sentence in answer.sentences]
    body: dict[str, Any] = {
        "output": {**output, "finish_reason": answer.finish, "sentences": sentences},
        "confidence": None,
        "calibrated": False,
        "support": round(share(answer.sentences), 6),
        "abstained": answer.abstain_reason is not None,
        "abstain_reason": answer.abstain_reason,
    }
    if cites(request):
        shares = weights(answer.sentences, [hit.rank for hit in answer.hits])
        body["citations"] = [
            citation(Cited(hit, shares[hit.rank], answer.influence.get(i)), "label")
            for i, hit in enumerate(answer.hits)
        ]
    return body


def retrieval_event(hits: list[Hit]) -> dict[str, Any]:
    """The event ``retrieval``: the passages; their weights are not known before the text is."""
    bodies = [citation(Cited(hit, 0.0), "label") for hit in hits]
    for body in bodies:
        del body["weight"]
    return {"citations": bodies}
