"""The JSON of a whole answer: of ``POST /predict``, and of ``POST /classify``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.inference.snapshot import MODEL_NAME
from app.predict.classification import classify_item
from app.predict.task import Answered, AnyTask, Context
from app.problems import Problem


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answers to one request. ``began``: by ``time.perf_counter``."""

    task: AnyTask
    context: Context
    answers: list[Answered | Problem]
    began: float
    degraded: Sequence[str] = ()

    @property
    def good(self) -> list[Answered]:
        """The answers without the problems; there is at least one."""
        return [one for one in self.answers if isinstance(one, Answered)]


def predict_body(done: Prediction) -> dict[str, Any]:
    """The answer of ``POST /predict``."""
    request, snapshot = done.context.request, done.context.snapshot
    generates = done.task.generates
    return {
        "id": new_id(),
        "object": "prediction",
        "created": int(time.time()),
        "task": request.task,
        "model": snapshot.model_json() if generates else snapshot.model().model.to_json(),
        "index": snapshot.index_json(),
        "data": data(done, lambda answer: done.task.item(request, answer)),
        "usage": usage(done.good),
        "timing_ms": timing(done),
        "degraded": [*snapshot.degraded, *done.degraded],
        "warnings": warnings(done),
    }


def classify_body(done: Prediction) -> dict[str, Any]:
    """The answer of ``POST /classify``."""
    request, snapshot = done.context.request, done.context.snapshot
    return {
        "id": new_id(),
        "object": "list",
        "created": int(time.time()),
        "model": MODEL_NAME,
        "data": data(done, lambda answer: classify_item(request, answer)),
        "usage": usage(done.good),
        "model_info": snapshot.model().model.to_json(),
        "index_info": snapshot.index_json(),
        "timing_ms": timing(done),
        "degraded": [*snapshot.degraded, *done.degraded],
        "warnings": warnings(done),
    }


def new_id() -> str:
    """The id of a prediction."""
    return f"pred_{secrets.token_hex(12)}"


def data(done: Prediction, item: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers in the order of the inputs, each as ``item`` shapes it, or its problem."""
    return [
        {"index": i, **({"error": one.to_json()} if isinstance(one, Problem) else item(one))}
        for i, one in enumerate(done.answers)
    ]


def usage(answers: Sequence[Answered]) -> dict[str, int]:
    """Tokens read and generated, and documents, over all inputs."""
    tokens = sum(one.tokens for one in answers)
    new = sum(one.new_tokens for one in answers)
    return {
        "prompt_tokens": tokens,
        "completion_tokens": new,
        "total_tokens": tokens + new,
        "retrieved": sum(one.retrieved for one in answers),
        "used": sum(one.used for one in answers),
    }


def timing(done: Prediction) -> dict[str, float]:
    """Milliseconds: of the slowest input for each part, and of the whole request."""
    parts = {
        "queue": max(one.queue_ms for one in done.good),
        "retrieve": max(one.retrieve_ms for one in done.good),
        "predict": max(one.predict_ms for one in done.good),
        "total": 1000 * (time.perf_counter() - done.began),
    }
    return {name: round(milliseconds, 3) for name, milliseconds in parts.items()}


def warnings(done: Prediction) -> list[str]:
    """Each warning of the answers once, then those of the request."""
    own = dict.fromkeys(warning for one in done.good for warning in one.warnings)
    return [*own, *done.task.warnings(done.context, done.good)]
