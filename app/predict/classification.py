"""The tasks ``classification`` and ``sentiment``: the label of a text in a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.inference.ablation import ClosedBook
from app.inference.answer import Answer, AnswerOptions, Evidence
from app.inference.retrieval import filter_of
from app.inference.snapshot import Snapshot
from app.predict.inputs import TextInput, texts, unused, with_thresholds
from app.predict.task import Context, Task, item_body
from app.problems import Problem, invalid
from app.schemas.predict import ClassifyRequest, Params, TaskRequest
from app.settings import Settings

MAX_FIELDS = 20  # named where a request asks for another


class Classification(Task[TextInput, Answer]):
    """Labels of the field that a request names, or of ``default_field``."""

    labels = True

    def __init__(self, default_field: str) -> None:
        self._default_field = default_field

    def check(self, request: TaskRequest, settings: Settings) -> TaskRequest:
        """With the server's thresholds."""
        return with_thresholds(request, settings)

    def read(self, request: TaskRequest, settings: Settings) -> list[TextInput | Problem]:
        """A text, or a list of texts. Raises ``validation`` for a filter that is not one."""
        filter_of(request.retrieval.filter, "#/retrieval/filter")
        return texts(request.input, settings.max_input_chars)

    async def prepare(self, context: Context, inputs: Sequence[TextInput | Problem]) -> list[str]:
        """As of every task. Raises ``validation`` for a field that does not exist."""
        field = self.field(context.request)
        check_field(context, field, default=field == self._default_field)
        return await super().prepare(context, inputs)

    async def answer(self, context: Context, given: TextInput, recorded: Evidence | None) -> Answer:
        """The label of one text."""
        options = options_of(context.request, self.field(context.request))
        return await context.pipeline.answer(
            context.snapshot, given.text, options, recorded=recorded
        )

    def item(self, request: TaskRequest, answer: Answer) -> dict[str, Any]:
        """The best labels, and what both routes say."""
        scores = ranked(answer.scores)[: request.params.top_n]
        output: dict[str, Any] = {"label": answer.label, "scores": scores}
        if answer.multilabel is not None:
            output["labels"] = answer.multilabel
        return label_item(request, answer, {"output": output})

    def warnings(self, context: Context, answers: Sequence[Answer]) -> list[str]:
        """A field without labels, and parameters without effect."""
        field = self.field(context.request)
        return [
            *unlabelled(context.snapshot, field, answers),
            *unused(context.request.params, "classification"),
        ]

    def field(self, request: TaskRequest) -> str:
        """The request's, or the task's own."""
        return request.field or self._default_field


def task_request(request: ClassifyRequest) -> TaskRequest:
    """A request to ``POST /classify`` as one of the task ``classification``."""
    return TaskRequest(
        task="classification",
        input=request.input,
        field=request.field,
        retrieval=request.retrieval,
        params=Params() if request.labels is None else Params(labels=request.labels),
        explain=request.explain,
        abstain=request.abstain,
    )


def check_field(context: Context, field: str, *, default: bool) -> None:
    """Raise ``validation`` where neither a head nor a document knows the field.

    ``default``: one that needs not be requested is no error while there is no field at all.
    """
    heads, searcher = context.snapshot.model().model.heads, context.snapshot.searcher
    given = any(d.label is not None for d in context.request.retrieval.documents or ())
    if field in heads or given or searcher is None or searcher.field_labels(field):
        return
    fields = sorted({*heads, *searcher.fields()})
    if default and not fields:
        return
    known = ", ".join(fields[:MAX_FIELDS]) + (", ..." if len(fields) > MAX_FIELDS else "")
    there = f"there are: {known}" if fields else "no document has labels yet"
    raise invalid("#/field", f"no head and no document has this field; {there}")


def options_of(request: TaskRequest, field: str) -> AnswerOptions:
    """What a request asks of each input. Raises ``validation`` for a filter that is not one."""
    retrieval, labels = request.retrieval, request.params.labels
    return AnswerOptions(
        field=field,
        mode=retrieval.mode,
        method=retrieval.method,
        k=retrieval.k,
        filter=filter_of(retrieval.filter, "#/retrieval/filter"),
        evidence=retrieval.evidence,
        exclude_ids=tuple(retrieval.exclude_ids),
        documents=tuple(retrieval.documents or ()),
        labels=None if labels is None else tuple(labels),
        min_confidence=request.abstain.min_confidence,
        min_support=request.abstain.min_support,
        influence="influence" in request.explain,
        ablation="ablation" in request.explain,
    )


def classify_item(request: TaskRequest, answer: Answer) -> dict[str, Any]:
    """The element of ``data`` of ``POST /classify``: all labels, in the head's order."""
    scores = answer.scores
    body: dict[str, Any] = {
        "label": answer.label,
        "probs": [p for _, p in scores],
        "num_classes": len(scores),
        "scores": ranked(scores),
    }
    if answer.multilabel is not None:
        body["labels"] = answer.multilabel
    return label_item(request, answer, body)


def ranked(scores: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """All labels with their probabilities, best first."""
    best_first = sorted(scores, key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in best_first]


def label_item(request: TaskRequest, answer: Answer, output: dict[str, Any]) -> dict[str, Any]:
    """The element of ``data`` of both routes: ``output`` with the explanations of labels."""
    body = item_body(request, answer, output)
    if "influence" in request.explain:
        body["flip_set"] = answer.flip_set and answer.flip_set.model_dump()
    if "ablation" in request.explain and answer.closed is not None:
        body["ablation"] = ablation(answer.closed, answer.multilabel is not None)
    return body


def ablation(closed: ClosedBook, multilabel: bool) -> dict[str, Any]:
    """The answer with retrieval off."""
    output: dict[str, Any] = {
        "label": closed.label,
        "scores": ranked(list(closed.scores.items())),
    }
    if multilabel:
        output["labels"] = sorted(closed.answered)
    return {"output": output, "confidence": closed.confidence, "changed": closed.changed}


def unlabelled(snapshot: Snapshot, field: str, answers: Sequence[Answer]) -> list[str]:
    """A warning where no label is known: the field's name is often misspelt."""
    if field in snapshot.model().model.heads:
        return []
    if any(one.scores or one.evidence.labels for one in answers):
        return []
    return [f"the field '{field}' has no head, and no document in view has a label in it"]
