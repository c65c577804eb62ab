"""From a checked request to an answer's JSON: ``/predict`` and ``/classify``. It knows no HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson

from app.history.predictions import Said
from app.history.records import record_of
from app.inference.ablation import ClosedBook
from app.inference.pipeline import Answer, Ask, Cited
from app.inference.retrieval import filter_of, method_for
from app.inference.snapshot import MODEL_NAME, Snapshot
from app.predict import accounts
from app.problems import FieldError, Problem, invalid
from app.schemas.predict import ClassifyRequest, Params, PredictRequest, Retrieval
from app.settings import Settings
from app.state import Footnote

SENTIMENT_FIELD = "sentiment"


async def predict(footnote: Footnote, request: PredictRequest) -> bytes:
    """The answer to ``POST /predict``, as JSON. Raises :class:`Problem`."""
    began = time.perf_counter()
    ask = ask_of(request, footnote.settings)
    inputs, pointers = texts(request.input)
    with footnote.permits.take(len(inputs)):
        snapshot = await captured(footnote, request.retrieval)
        pin = request.pin
        snapshot = await footnote.pins.snapshot(snapshot, pin.model_sha256, pin.index_sequence)
        footnote.pins.note(snapshot.searcher)
        degraded = degraded_method(snapshot, ask)
        answers = await footnote.pipeline.answer_all(snapshot, inputs, ask, pointers=pointers)
    body = predict_body(request, ask, snapshot, answers, began, degraded)
    return remembered(footnote, request, ask, snapshot, inputs, answers, body)


async def classify(footnote: Footnote, request: ClassifyRequest) -> bytes:
    """The answer to ``POST /classify``, as JSON. Raises :class:`Problem`."""
    began = time.perf_counter()
    ask = ask_of(request, footnote.settings)
    inputs, pointers = texts(request.input)
    with footnote.permits.take(len(inputs)):
        snapshot = await captured(footnote, request.retrieval)
        check_model(snapshot, request.model)
        footnote.pins.note(snapshot.searcher)
        degraded = degraded_method(snapshot, ask)
        answers = await footnote.pipeline.answer_all(snapshot, inputs, ask, pointers=pointers)
    body = classify_body(ask, snapshot, answers, began, degraded)
    return remembered(footnote, request, ask, snapshot, inputs, answers, body)


def predict_body(
    request: PredictRequest,
    ask: Ask,
    snapshot: Snapshot,
    answers: Sequence[Answer | Problem],
    began: float,
    degraded: Sequence[str],
) -> dict[str, Any]:
    """The answer of ``POST /predict``."""
    top = request.params.top_n
    return {
        "id": new_id(),
        "object": "prediction",
        "created": int(time.time()),
        "task": request.task,
        "model": snapshot.model().model.to_json(),
        "index": snapshot.index_json(),
        "data": [predict_item(i, a, ask, top) for i, a in enumerate(answers)],
        "usage": usage(answers),
        "timing_ms": timing(answers, began),
        "degraded": [*snapshot.degraded, *degraded],
        "warnings": [*unlabelled(snapshot, ask, answers), *unused(request.params)],
    }


def classify_body(
    ask: Ask,
    snapshot: Snapshot,
    answers: Sequence[Answer | Problem],
    began: float,
    degraded: Sequence[str],
) -> dict[str, Any]:
    """The answer of ``POST /classify``."""
    return {
        "id": new_id(),
        "object": "list",
        "created": int(time.time()),
        "model": MODEL_NAME,
        "data": [classify_item(i, a, ask) for i, a in enumerate(answers)],
        "usage": usage(answers),
        "model_info": snapshot.model().model.to_json(),
        "index_info": snapshot.index_json(),
        "timing_ms": timing(answers, began),
        "degraded": [*snapshot.degraded, *degraded],
        "warnings": unlabelled(snapshot, ask, answers),
    }


def new_id() -> str:
    """An id that no other prediction has."""
    return f"pred_{secrets.token_hex(12)}"


def texts(given: str | Sequence[object] | dict[str, Any]) -> tuple[list[object], list[str]]:
    """The inputs of a request and where each of them stands. Raises ``validation``."""
    if isinstance(given, str):
        return [given], ["#/input"]
    if isinstance(given, dict):
        raise invalid("#/input", "this task takes a text or a list of texts")
    return list(given), [f"#/input/{i}" for i in range(len(given))]


def ask_of(request: PredictRequest | ClassifyRequest, settings: Settings) -> Ask:
    """What is asked of each input; thresholds are the server's unless the request has its own.

    Raises ``validation`` and ``capability-missing``.
    """
    if isinstance(request, PredictRequest):
        if request.stream:
            detail = "A classification is not streamed: it comes at once."
            raise Problem("capability-missing", detail)
        default = SENTIMENT_FIELD if request.task == "sentiment" else "label"
        field, labels = request.field or default, request.params.labels
    else:
        field, labels = request.field, request.labels
    retrieval, explain = request.retrieval, request.explain
    confidence, support = request.abstain.min_confidence, request.abstain.min_support
    check_retrieval(retrieval)
    return Ask(
        field=field,
        mode=retrieval.mode,
        method=retrieval.method,
        k=retrieval.k,
        filter=filter_of(retrieval.filter, "#/retrieval/filter"),
        exclude_ids=tuple(retrieval.exclude_ids),
        documents=tuple(retrieval.documents or ()),
        labels=None if labels is None else tuple(labels),
        min_confidence=settings.min_confidence if confidence is None else confidence,
        min_support=settings.min_support if support is None else support,
        cite=cites(request),
        influence="influence" in explain,
        ablation="ablation" in explain,
    )


def cites(request: PredictRequest | ClassifyRequest) -> bool:
    """Whether citations are wanted; an influence is told of one."""
    return "citations" in request.explain or "influence" in request.explain


def check_retrieval(retrieval: Retrieval) -> None:
    """Raise ``validation`` where the mode and what came with it do not go together."""
    if retrieval.mode == "provided" and not retrieval.documents:
        raise invalid("#/retrieval/documents", "mode 'provided' needs documents")
    if retrieval.mode != "provided" and retrieval.documents:
        raise invalid("#/retrieval/documents", "only mode 'provided' takes documents")
    if retrieval.mode == "provided" and retrieval.filter is not None:
        raise invalid("#/retrieval/filter", "only mode 'index' takes a filter")


async def captured(footnote: Footnote, retrieval: Retrieval) -> Snapshot:
    """The snapshot of one request. Raises ``not-ready`` while what it needs is not there."""
    if retrieval.min_sequence is not None:
        await reach(footnote, retrieval.min_sequence, "#/retrieval/min_sequence")
    snapshot = footnote.snapshot()
    if retrieval.mode == "index":
        snapshot.index()
    snapshot.model()
    return snapshot


async def reach(footnote: Footnote, sequence: int, pointer: str) -> None:
    """Wait until the index holds a write. Raises ``validation`` for one that was never made."""
    if sequence > footnote.store.sequence:
        raise invalid(pointer, "no write has this number yet")
    await footnote.open_indexer().wait(sequence)


def check_model(snapshot: Snapshot, name: str | None) -> None:
    """Raise ``not-found`` for the name of a model that does not serve."""
    if name not in (None, MODEL_NAME, snapshot.model().model.version):
        raise Problem(
            "not-found",
            f"No such model serves; it is '{MODEL_NAME}'.",
            errors=[FieldError("#/model", "unknown model")],
            more={"code": "model_not_found"},
        )


def degraded_method(snapshot: Snapshot, ask: Ask) -> list[str]:
    """In what retrieval falls short of what the index was made for."""
    if ask.mode != "index":
        return []
    return method_for(snapshot, ask.method, "retrieval.method")[1]


def predict_item(index: int, answer: Answer | Problem, ask: Ask, top_n: int) -> dict[str, Any]:
    """One element of ``data`` of ``/predict``."""
    if isinstance(answer, Problem):
        return {"index": index, "error": answer.to_json()}
    output: dict[str, Any] = {"label": answer.label, "scores": ranked(answer.scores)[:top_n]}
    if answer.multilabel is not None:
        output["labels"] = answer.multilabel
    return {"index": index, "output": output, **common(answer, ask)}


def classify_item(index: int, answer: Answer | Problem, ask: Ask) -> dict[str, Any]:
    """One element of ``data`` of ``/classify``."""
    if isinstance(answer, Problem):
        return {"index": index, "error": answer.to_json()}
    item: dict[str, Any] = {
        "index": index,
        "label": answer.label,
        "probs": [p for _, p in answer.scores],
        "num_classes": len(answer.scores),
        "scores": ranked(answer.scores),
    }
    if answer.multilabel is not None:
        item["labels"] = answer.multilabel
    return item | common(answer, ask)


def ranked(scores: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """All labels with their probabilities, best first."""
    best_first = sorted(scores, key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in best_first]


def common(answer: Answer, ask: Ask) -> dict[str, Any]:
    """What both routes say of an answer."""
    said: dict[str, Any] = {
        "confidence": answer.confidence,
        "calibrated": answer.calibrated,
        "support": answer.support,
        "abstained": answer.abstained,
        "abstain_reason": answer.abstain_reason,
    }
    if ask.cite:
        said["citations"] = [citation(c, ask.field) for c in answer.cited]
    if ask.influence:
        flip_set = answer.flip_set
        said["flip_set"] = None if flip_set is None else asdict(flip_set)
    if ask.ablation and answer.closed is not None:
        said["ablation"] = ablation(answer.closed, answer.multilabel is not None)
    return said


def ablation(closed: ClosedBook, multilabel: bool) -> dict[str, Any]:
    """The answer with retrieval off."""
    output: dict[str, Any] = {
        "label": closed.label,
        "scores": ranked(list(closed.scores.items())),
    }
    if multilabel:
        output["labels"] = sorted(closed.answered)
    return {"output": output, "confidence": closed.confidence, "changed": closed.changed}


def citation(cited: Cited, field: str) -> dict[str, Any]:
    """A document that an answer rests on."""
    hit, document = cited.hit, cited.hit.document
    said = {
        "doc_id": hit.doc_id,
        "rank": hit.rank,
        "title": document.title,
        "text": hit.text,
        "start": hit.start,
        "end": hit.end,
        "label": document.labels.get(field),
        "metadata": document.metadata,
        "scores": hit.scores,
        "weight": round(cited.weight, 6),
    }
    if cited.influence is not None:
        influence = asdict(cited.influence)
        said["influence"] = {k: v for k, v in influence.items() if v is not None}
    return said


def usage(answers: Sequence[Answer | Problem]) -> dict[str, int]:
    """What was read for a request."""
    good = [a for a in answers if isinstance(a, Answer)]
    return accounts.usage(
        tokens=sum(a.tokens for a in good),
        retrieved=sum(a.retrieved for a in good),
        used=sum(a.used for a in good),
    )


def timing(answers: Sequence[Answer | Problem], began: float) -> dict[str, float]:
    """Milliseconds, of the slowest input for each part."""
    good = [a for a in answers if isinstance(a, Answer)]
    return accounts.timing(
        began,
        queue=max(a.queue_ms for a in good),
        retrieve=max(a.retrieve_ms for a in good),
        predict=max(a.predict_ms for a in good),
    )


def unlabelled(snapshot: Snapshot, ask: Ask, answers: Sequence[Answer | Problem]) -> list[str]:
    """A warning where nothing can answer: often a field that is spelled otherwise."""
    known = ask.field in snapshot.model().model.heads
    told = [a for a in answers if isinstance(a, Answer)]
    if known or not told or any(a.scores or a.evidence.labels for a in told):
        return []
    return [f"the field '{ask.field}' has no head, and no document in view has a label in it"]


def unused(params: Params, task: str = "classification") -> list[str]:
    """Warnings about parameters that were given and have no effect here."""
    concerns_text = {"max_new_tokens", "temperature", "top_p", "seed", "stop"}
    return [
        f"params.{name} has no effect on {task}"
        for name in sorted(params.model_fields_set & concerns_text)
    ]


def remembered(
    footnote: Footnote,
    request: PredictRequest | ClassifyRequest,
    ask: Ask,
    snapshot: Snapshot,
    inputs: Sequence[object],
    answers: Sequence[Answer | Problem],
    body: dict[str, Any],
) -> bytes:
    """The answer as it is sent, which is kept with what it takes to give it again."""
    raw = orjson.dumps(body)
    for answer in answers:
        if isinstance(answer, Answer) and answer.closed is not None and answer.scores:
            footnote.ablations.count(ask.field, answer.closed)
    kept = said(inputs, answers)
    record = record_of(request, ask, snapshot, answers)
    footnote.predictions.keep(
        body["id"],
        field=ask.field,
        said=kept,
        body=raw,
        record=record,
        vectors=[a.vector if isinstance(a, Answer) else None for a in answers]
        if ask.mode == "index"
        else (),
        encoder=snapshot.model().model.encoder_sha256,
    )
    return raw


def said(inputs: Sequence[object], answers: Sequence[Answer | Problem]) -> list[Said | None]:
    """What is kept of the answers for feedback."""
    return [
        Said(str(text), answer.label, answer.confidence, answer.closed)
        if isinstance(answer, Answer)
        else None
        for text, answer in zip(inputs, answers, strict=True)
    ]
