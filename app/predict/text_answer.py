"""A written text, and how it is told: the same for what was generated and what was quoted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.history.predictions import Said
from app.inference.influence import Influence
from app.inference.pipeline import Cited
from app.inference.snapshot import Snapshot
from app.predict import accounts
from app.predict import classify as service
from app.predict.records import remembered
from app.predict.support import Sentence, share, weights
from app.problems import Problem
from app.schemas.predict import PredictRequest
from app.state import Footnote
from index_data.search.searcher import Hit


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A text with what it rests on. ``used``: places in ``hits`` that stood in the prompt."""

    text: str
    finish: str
    sentences: list[Sentence]
    hits: list[Hit]
    used: tuple[int, ...] = ()
    abstain_reason: str | None = None  # why nothing is said
    notes: list[str] = field(default_factory=list)
    influence: dict[int, Influence] = field(default_factory=dict)  # by place in ``hits``
    prompt_tokens: int = 0
    new_tokens: int = 0
    queue_ms: float = 0.0
    retrieve_ms: float = 0.0
    predict_ms: float = 0.0

    @property
    def support(self) -> float:
        """How much of the text the retrieved passages hold, by length."""
        return share(self.sentences)


def predict_body(
    request: PredictRequest,
    snapshot: Snapshot,
    done: Sequence[Written | Problem],
    began: float,
    degraded: Sequence[str],
) -> dict[str, Any]:
    """The answer of ``POST /predict``."""
    good = [one for one in done if isinstance(one, Written)]
    notes = [note for one in good for note in one.notes]
    return {
        "id": service.new_id(),
        "object": "prediction",
        "created": int(time.time()),
        "task": request.task,
        "model": snapshot.model_json(),
        "index": snapshot.index_json(),
        "data": [item(i, one, request) for i, one in enumerate(done)],
        "usage": usage(good),
        "timing_ms": accounts.timing(
            began,
            queue=max(one.queue_ms for one in good),
            retrieve=max(one.retrieve_ms for one in good),
            predict=max(one.predict_ms for one in good),
        ),
        "degraded": [*snapshot.degraded, *degraded],
        "warnings": list(dict.fromkeys(notes)),
    }


def usage(good: Sequence[Written]) -> dict[str, int]:
    """What was read and written for a request."""
    return accounts.usage(
        tokens=sum(one.prompt_tokens for one in good),
        new=sum(one.new_tokens for one in good),
        retrieved=sum(len(one.hits) for one in good),
        used=sum(len(one.used) for one in good),
    )


def item(index: int, done: Written | Problem, request: PredictRequest) -> dict[str, Any]:
    """One element of ``data``."""
    if isinstance(done, Problem):
        return {"index": index, "error": done.to_json()}
    sentences = [sentence.to_json() for sentence in done.sentences]
    output: dict[str, Any]
    if request.task == "generation":
        output = {"text": done.text, "finish_reason": done.finish, "sentences": sentences}
    else:
        message = {"role": "assistant", "content": done.text}
        output = {"message": message, "sentences": sentences, "finish_reason": done.finish}
    said: dict[str, Any] = {
        "index": index,
        "output": output,
        "confidence": None,
        "calibrated": False,
        "support": round(done.support, 6),
        "abstained": done.abstain_reason is not None,
        "abstain_reason": done.abstain_reason,
    }
    if service.cites(request):
        said["citations"] = cited(done)
    return said


def cited(done: Written) -> list[dict[str, Any]]:
    """The passages of an answer, with how much of it rests on each."""
    shares = weights(done.sentences, [hit.rank for hit in done.hits])
    return [
        citation(hit, shares[hit.rank], done.influence.get(i)) for i, hit in enumerate(done.hits)
    ]


def citation(hit: Hit, weight: float | None, influence: Influence | None) -> dict[str, Any]:
    """A passage as the contract writes it; its weight is not known before the text is."""
    said = service.citation(Cited(hit, weight or 0.0, influence), "label")
    if weight is None:
        del said["weight"]
    return said


def kept(
    footnote: Footnote,
    request: PredictRequest,
    snapshot: Snapshot,
    asked: Sequence[Any],
    done: Sequence[Written | Problem],
    body: dict[str, Any],
) -> bytes:
    """The answer as it is sent, which is kept with what it was answered from."""
    good = [isinstance(one, Written) for one in done]
    said = [Said(str(a), None, None) if g else None for a, g in zip(asked, good, strict=True)]
    found = [
        (one.hits if request.retrieval.mode == "index" else [])
        if isinstance(one, Written)
        else None
        for one in done
    ]
    thresholds = (None, least_support(footnote, request))
    return remembered(footnote, request, snapshot, said, found, thresholds, body)


def least_support(footnote: Footnote, request: PredictRequest) -> float:
    """Under which support nothing is said."""
    asked = request.abstain.min_support
    return footnote.settings.min_support if asked is None else asked
