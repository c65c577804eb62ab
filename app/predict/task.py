"""What a task is: the steps that `app.predict.driver` takes for every request.

A new task is a class with these methods in a file of its own, and a row in `app.predict.tasks`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from app.inference.answer import Answered, Cited, Evidence
from app.inference.pipeline import Pipeline
from app.inference.retrieval import method_for
from app.inference.snapshot import Snapshot
from app.predict.inputs import unused
from app.problems import Problem
from app.schemas.predict import TaskRequest
from app.settings import Settings
from app.web.streaming import Emit, silent


@dataclass(frozen=True, slots=True)
class Context:
    """What a task answers one request with. ``emit`` sends an event where it is streamed."""

    request: TaskRequest
    snapshot: Snapshot
    pipeline: Pipeline
    emit: Emit = silent


Input = TypeVar("Input")
A = TypeVar("A", bound=Answered)


class Task(Protocol[Input, A]):
    """One task of ``POST /predict``. The methods are called in this order.

    Attributes:
        labels: It answers with labels of a field, from the vectors of the hits.
        generates: It generates text: it can be streamed, and ``model`` names the generator.
        title: How warnings name a task on which parameters of text generation have no effect.
    """

    labels: bool = False
    generates: bool = False
    title: str = ""

    def check(self, request: TaskRequest, settings: Settings) -> TaskRequest:
        """The request with the server's defaults filled in. Raises :class:`Problem`."""
        return request

    @abstractmethod
    def read(self, request: TaskRequest, settings: Settings) -> list[Input | Problem]:
        """The inputs of a request, or what is wrong with each. Raises ``validation``."""

    def missing(self, snapshot: Snapshot) -> str | None:
        """Why this server cannot do the task, as a sentence; None where it can."""
        return None

    async def prepare(self, context: Context, inputs: Sequence[Input | Problem]) -> list[str]:
        """What is degraded, by default in retrieval. Raises :class:`Problem` for a request that
        the snapshot cannot answer.
        """
        retrieval = context.request.retrieval
        if retrieval.mode != "index":
            return []
        return method_for(context.snapshot, retrieval.method, "retrieval.method")[1]

    @abstractmethod
    async def answer(
        self, context: Context, given: Input, recorded: Evidence | None
    ) -> A | Problem:
        """The answer to one input, or what is wrong with this input alone.

        ``recorded``: the evidence of the first answer, for a replay. Raises :class:`Problem` for
        what is wrong with the request.
        """

    @abstractmethod
    def item(self, request: TaskRequest, answer: A) -> dict[str, Any]:
        """The element of ``data``, without its ``index``."""

    def warnings(self, context: Context, answers: Sequence[A]) -> list[str]:
        """Warnings of the request, after those of its answers."""
        return unused(context.request.params, self.title) if self.title else []

    def field(self, request: TaskRequest) -> str:
        """The label field that is predicted; of tasks without labels their name."""
        return request.task


AnyTask = Task[Any, Any]


def item_body(request: TaskRequest, answer: Answered, output: dict[str, Any]) -> dict[str, Any]:
    """The element of ``data``: a task's own ``output``, and what all tasks tell of an answer."""
    body = {
        **output,
        "confidence": answer.confidence,
        "calibrated": answer.calibrated,
        "support": answer.support,
        "abstained": answer.abstain_reason is not None,
        "abstain_reason": answer.abstain_reason,
    }
    if "citations" in request.explain or "influence" in request.explain:
        body["citations"] = [citation(one, answer.label_field) for one in answer.cited]
    return body


def citation(cited: Cited, field: str) -> dict[str, Any]:
    """A cited document, with its label in ``field``."""
    hit, document = cited.hit, cited.hit.document
    body = {
        "doc_id": hit.doc_id,
        "rank": hit.rank,
        "title": hit.title,
        "text": hit.text,
        "start": hit.start,
        "end": hit.end,
        "label": document.labels.get(field),
        "metadata": document.metadata,
        "scores": hit.scores,
        "weight": round(cited.weight, 6),
    }
    if cited.influence is not None:
        body["influence"] = cited.influence.model_dump(exclude_none=True)
    return body
