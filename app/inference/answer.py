"""The answer to one input of a label field: what is asked, its evidence, and the judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.inference.ablation import ClosedBook
from app.inference.calibration import Calibration
from app.inference.influence import Verdict
from app.problems import FieldError, Problem
from app.schemas.predict import AbstainReason, ProvidedDocument
from app.schemas.prediction import FlipSet, Influence
from index_data.filters import Filter
from index_data.roles import EvidenceRole
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.labels.prediction import Prediction

CITED = 10  # documents cited when the request does not say how many


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What a request asks of each of its inputs."""

    field: str = "label"
    mode: Literal["index", "provided", "off"] = "index"
    method: str | None = None
    k: int | None = None
    filter: Filter | None = None
    evidence: EvidenceRole | None = None
    exclude_ids: tuple[str, ...] = ()
    documents: tuple[ProvidedDocument, ...] = ()
    labels: tuple[str, ...] | None = None
    min_confidence: float | None = None
    min_support: float | None = None
    influence: bool = False
    ablation: bool = False


@dataclass(frozen=True, slots=True)
class Cited:
    """A hit with its share in the answer, and its influence where that is asked."""

    hit: Hit
    weight: float
    influence: Influence | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an input is answered from, beside the model: with it the answer can be given again.

    ``labels``: those of the field in the index; ``calibration``: of a field without a head.
    """

    hits: list[Hit]
    labels: tuple[str, ...] = ()
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answer to one input, as far as all tasks agree; a task's own class adds the rest.

    ``evidence``: what a replay answers from; of its hits only those from the index are recorded.
    ``warnings``: for the whole request; equal ones are sent once. ``label_field``: whose labels
    the cited documents show.
    """

    input_text: str
    evidence: Evidence
    retrieved: int  # hits
    used: int  # of them, those that count in the answer
    tokens: int
    new_tokens: int = 0
    queue_ms: float = 0.0
    retrieve_ms: float
    predict_ms: float
    label: str | None = None
    confidence: float | None = None
    calibrated: bool = False
    support: float = 0.0
    abstain_reason: AbstainReason | None = None
    cited: Sequence[Cited] = ()
    label_field: str = "label"
    closed: ClosedBook | None = None
    warnings: Sequence[str] = ()
    vector: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)  # [dim]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Answered):
    """The label of one input. ``scores`` are in the head's order, then the others sorted."""

    scores: list[tuple[str, float]]
    multilabel: list[str] | None  # a list-valued field: the labels over the threshold
    confidence: float
    flip_set: FlipSet | None = None


def make_answer(
    prediction: Prediction, evidence: Evidence, options: AnswerOptions, **read: Any
) -> Answer:
    """A prediction under the request's labels and thresholds.

    ``read``: the text, its vector, its number of tokens and the times of the answer. Raises
    ``validation`` for a label that the field does not have.
    """
    scores = scores_of(prediction, options.labels)
    best = max(scores, key=lambda pair: pair[1], default=None)
    confidence = best[1] if best and not prediction.abstained else 0.0
    abstain_reason: AbstainReason | None = None
    if prediction.abstained or best is None:
        abstain_reason = "no_evidence"
    elif options.min_support is not None and prediction.support < options.min_support:
        abstain_reason = "low_support"
    elif options.min_confidence is not None and confidence < options.min_confidence:
        abstain_reason = "low_confidence"
    multilabel = None
    if prediction.multi:
        multilabel = [] if abstain_reason else [n for n, p in scores if p >= prediction.threshold]
        if not multilabel and not abstain_reason:
            abstain_reason = "low_confidence"  # no label is over the threshold
    return Answer(
        label=None if abstain_reason or best is None else best[0],
        scores=[] if prediction.abstained else scores,
        multilabel=multilabel,
        confidence=confidence,
        calibrated=prediction.calibrated and options.labels is None,
        support=float(prediction.support),
        abstain_reason=abstain_reason,
        cited=cited_hits(prediction, evidence.hits, options),
        label_field=options.field,
        evidence=evidence,
        retrieved=len(evidence.hits),
        used=sum(w > 0 for w in prediction.weights),
        **read,
    )


def cited_hits(prediction: Prediction, hits: Sequence[Hit], options: AnswerOptions) -> list[Cited]:
    """The hits that are cited: the weightiest ``CITED`` where the request names no ``k``."""
    cited = [Cited(hit, float(w)) for hit, w in zip(hits, prediction.weights, strict=True)]
    if options.k is not None or len(cited) <= CITED:
        return cited
    weightiest = {id(c) for c in sorted(cited, key=lambda c: -c.weight)[:CITED]}
    return [c for c in cited if id(c) in weightiest]


def scores_of(prediction: Prediction, labels: Sequence[str] | None) -> list[tuple[str, float]]:
    """Labels with their probabilities; of ``labels`` only, which then sum to 1 again.

    Raises ``validation`` for a label that is unknown.
    """
    scores = [(n, float(p)) for n, p in zip(prediction.labels, prediction.probs, strict=True)]
    if labels is None:
        return scores
    known = {name for name, _ in scores}
    unknown = [i for i, label in enumerate(labels) if label not in known]
    if unknown and known:
        errors = [FieldError(f"#/labels/{i}", "no such label in this field") for i in unknown]
        raise Problem("validation", "The request is not valid.", errors=errors)
    chosen = [(name, p) for name, p in scores if name in set(labels)]
    if prediction.multi:
        return chosen
    total = sum(p for _, p in chosen)
    # All of them at zero: nothing is known about any, which is the uniform distribution.
    return [(name, p / total if total > 0 else 1 / len(chosen)) for name, p in chosen]


def verdict(prediction: Prediction, options: AnswerOptions) -> Verdict:
    """What a prediction says without thresholds; labels that it does not know are left out."""
    labels = options.labels
    if labels is not None:
        labels = tuple(name for name in labels if name in prediction.labels)
    scores = [] if prediction.abstained else scores_of(prediction, labels)
    best = max(scores, key=lambda pair: pair[1], default=(None, 0.0))[0]
    answered = [best] if best is not None else []
    if prediction.multi:
        answered = [n for n, p in scores if p >= prediction.threshold]
    return Verdict(best, frozenset(answered), dict(scores))
