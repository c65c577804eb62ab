"""An answer with a label, from mixed probabilities and from what persons said of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.labels.memory import Retrieved
from model.labels.multilabel import THRESHOLD

EXACT_SHARE = 0.98
"""What a person's own label of the very same text is given."""


@dataclass(slots=True)
class Prediction:
    """An answer. `probs` follow `labels`: the head's order, then the others sorted.

    `support`: 0 to 1, how near the hits are that carry the answer. `weights`: for each hit, its
    share in the answer (mixture and fusion); what is missing to 1 is the closed book's.
    `multi`: the field's values are lists, the probabilities are independent, and those from
    `threshold` on are answered. `decided`: by a person's own label of the very same text.
    """

    label: str | None
    labels: list[str]
    probs: NDArray[np.float32]
    confidence: float
    calibrated: bool
    support: float
    weights: list[float]
    gate: float
    abstained: bool = False
    multi: bool = False
    decided: bool = False
    threshold: float = THRESHOLD

    @property
    def answered(self) -> list[str]:
        """All labels that are answered: of a field with one label, that."""
        if not self.multi:
            return [] if self.label is None else [self.label]
        pairs = zip(self.labels, self.probs.tolist(), strict=True)
        return [label for label, p in pairs if p >= self.threshold]


def prediction_of(
    labels: list[str],
    hits: Sequence[Retrieved],
    *,
    probs: NDArray[np.float32],
    weights: NDArray[np.float32],
    near: NDArray[np.float32],
    gate: float,
    trained: bool,
) -> Prediction:
    """The answer that mixed probabilities [U] amount to, under what persons said of the text.

    `weights` and `near` [k]: each hit's share in the answer, and its cosine.
    """
    # The batch is padded to its longest row; a head may count fewer hits than there are.
    used = [float(w) for w in weights[: len(hits)]] + [0.0] * (len(hits) - len(weights))
    decided = [i for i, hit in enumerate(hits) if hit.exact and isinstance(hit.label, str)]
    if decided:
        probs = probs * (1 - EXACT_SHARE)
        used = [w * (1 - EXACT_SHARE) for w in used]
        for i in decided:
            probs[labels.index(str(hits[i].label))] += EXACT_SHARE / len(decided)
            used[i] += EXACT_SHARE / len(decided)
        probs, gate = probs / probs.sum(), max(gate, EXACT_SHARE)
    total = float(probs.sum())
    if total <= 0.0:
        return nothing(len(hits))
    best = int(probs.argmax())
    pairs = zip(near, hits, strict=False)
    agreeing = [float(cosine) for cosine, hit in pairs if hit.label == labels[best]]
    support = max([0.0, *agreeing])
    return Prediction(
        label=labels[best],
        labels=labels,
        probs=probs,
        confidence=float(probs[best]),
        calibrated=trained,
        support=min(1.0, 1.0 if decided else support),
        weights=used,
        gate=gate,
        decided=bool(decided),
    )


def nothing(hits: int) -> Prediction:
    """No answer, over so many hits."""
    none = np.zeros(0, dtype=np.float32)
    return Prediction(None, [], none, 0.0, False, 0.0, [0.0] * hits, 0.0, abstained=True)
