"""What retrieval changes: answers of the same model with it and without, counted."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

from app.inference.influence import Verdict
from app.metrics import Metrics, values


@dataclass(frozen=True, slots=True)
class ClosedBook:
    """An answer with retrieval off, without thresholds. ``gained``: confidence on less off."""

    label: str | None
    answered: frozenset[str]
    scores: dict[str, float]
    confidence: float
    changed: bool
    gained: float

    @classmethod
    def of(cls, closed: Verdict, whole: Verdict) -> ClosedBook:
        """Compared with the answer with retrieval, ``whole``."""
        confidence = closed.probs.get(closed.label or "", 0.0)
        return cls(
            closed.label,
            closed.answered,
            closed.probs,
            confidence,
            closed.answered != whole.answered,
            whole.probs.get(whole.label or "", 0.0) - confidence,
        )


class Ablations:
    """The running count of a server, by label field."""

    def __init__(self, metrics: Metrics) -> None:
        self._answers = metrics.counter(
            "footnote_ablation_answers_total",
            "Answers that were also given with retrieval off.",
            "field",
        )
        self._changed = metrics.counter(
            "footnote_ablation_changed_total", "Of these, how many retrieval changed.", "field"
        )
        self._gained = metrics.gauge(
            "footnote_ablation_confidence_sum",
            "Sum of the confidences with retrieval less those without.",
            "field",
        )
        self._judged = metrics.counter(
            "footnote_ablation_judged_total",
            "Of these, how many feedback judged, by which of the two was right.",
            "field",
            "right",
        )
        self._lock = Lock()

    def count(self, field: str, closed: ClosedBook) -> None:
        """Count an answer that was given both ways."""
        with self._lock:
            self._answers.labels(field).inc()
            self._changed.labels(field).inc(float(closed.changed))
            self._gained.labels(field).inc(closed.gained)

    def judge(self, field: str, on: str | None, off: str | None, right: str) -> None:
        """Count feedback that names the right label."""
        which = {(1, 1): "both", (1, 0): "on", (0, 1): "off", (0, 0): "neither"}
        self._judged.labels(field, which[on == right, off == right]).inc()

    def to_json(self) -> dict[str, Any]:
        """What retrieval changes, by field, for ``/version``."""
        with self._lock:
            answers, judged = values(self._answers), values(self._judged)
            changed, gained = values(self._changed), values(self._gained)
        return {
            field: {
                "answers": int(count),
                "changed": round(changed[field,] / count, 6),
                "confidence": round(gained[field,] / count, 6),
                "judged": {
                    which: int(judged.get((field, which), 0))
                    for which in ("on", "off", "both", "neither")
                },
            }
            for (field,), count in answers.items()
        }
