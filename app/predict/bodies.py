"""The JSON of a whole answer: of ``POST /predict``, and of ``POST /classify``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.inference.answer import Answered
from app.inference.snapshot import MODEL_NAME
from app.predict.classification import classify_item
from app.predict.task import AnyTask, Context
from app.problems import Problem
from app.schemas.predict import TaskRequest


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
    snapshot = done.context.snapshot
    generates = done.task.generates
    named = {
        "task": done.context.request.task,
        "model": snapshot.model_json() if generates else snapshot.model().model.to_json(),
        "index": snapshot.index_json(),
    }
    return _body(done, "prediction", named, done.task.item)


def classify_body(done: Prediction) -> dict[str, Any]:
    """The answer of ``POST /classify``."""
    snapshot = done.context.snapshot
    named = {
        "model": MODEL_NAME,
        "model_info": snapshot.model().model.to_json(),
        "index_info": snapshot.index_json(),
    }
    return _body(done, "list", named, classify_item)


def _body(
    done: Prediction,
    kind: str,
    named: dict[str, Any],
    item: Callable[[TaskRequest, Any], dict[str, Any]],
) -> dict[str, Any]:
    """What both routes answer. Times in ms: of the slowest input, and of the whole request."""
    context, good = done.context, done.good
    read, new = sum(one.tokens for one in good), sum(one.new_tokens for one in good)
    timing = {
        "queue": max(one.queue_ms for one in good),
        "retrieve": max(one.retrieve_ms for one in good),
        "predict": max(one.predict_ms for one in good),
        "total": 1000 * (time.perf_counter() - done.began),
    }
    warnings = dict.fromkeys(warning for one in good for warning in one.warnings)
    return {
        "id": f"pred_{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        **named,
        "data": [
            {"index": i, "error": one.to_json()}
            if isinstance(one, Problem)
            else {"index": i, **item(context.request, one)}
            for i, one in enumerate(done.answers)
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": new,
            "total_tokens": read + new,
            "retrieved": sum(one.retrieved for one in good),
            "used": sum(one.used for one in good),
        },
        "timing_ms": {name: round(milliseconds, 3) for name, milliseconds in timing.items()},
        "degraded": [*context.snapshot.degraded, *done.degraded],
        "warnings": [*warnings, *done.task.warnings(context, good)],
    }
