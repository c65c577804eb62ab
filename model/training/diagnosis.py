"""What a report shows beside its figures: confusion, reliability, worst mistakes, paired counts.

Rows are named by their ids and never by their texts, so that a report keeps nothing of a document
that is erased.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from model.metrics import Paired, f1_by_label
from model.training.calibration import Evidence
from model.training.split import Row

BINS = 10
WORST = 20
CITED = 3


def diagnose(
    probs: Tensor,
    evidence: Evidence,
    rows: Sequence[Row],
    labels: Sequence[str],
    answers: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The `diagnosis` of a report. `probs` [n, L] and `answers` by view are of `rows`."""
    truth = [str(row.label) for row in rows]
    said = answers["on"]
    right = [t == s for t, s in zip(truth, said, strict=True)]
    confidence = probs.amax(-1).tolist()
    return {
        "by_label": {view: f1_by_label(truth, given) for view, given in answers.items()},
        "support": dict(Counter(truth)),
        "confusion": confusion(truth, said),
        "reliability": reliability(confidence, right),
        "worst": worst(evidence, rows, labels, said, confidence),
        "paired": {
            rival: Paired.of(right, [t == s for t, s in zip(truth, given, strict=True)]).to_json()
            for rival, given in answers.items()
            if rival != "on"
        },
    }


def confusion(truth: Sequence[str], said: Sequence[str]) -> list[list[Any]]:
    """[truth, said, rows] for each pair that occurs, the most frequent first."""
    pairs = Counter(zip(truth, said, strict=True))
    return [[*pair, count] for pair, count in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))]


def reliability(confidence: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """Bins of confidence with the accuracy in each; empty ones are left out."""
    sure, good = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    which = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "rows": float((which == b).sum()),
            "confidence": float(sure[which == b].mean()),
            "accuracy": float(good[which == b].mean()),
        }
        for b in sorted(set(which.tolist()))
    ]


def worst(
    evidence: Evidence,
    rows: Sequence[Row],
    labels: Sequence[str],
    said: Sequence[str],
    confidence: Sequence[float],
) -> list[dict[str, Any]]:
    """The surest of the wrong answers, with the hits that had the most weight."""
    weights = evidence.neighbours(len(labels)).weights.tolist()
    wrong = [i for i, row in enumerate(rows) if row.label != said[i]]
    found = []
    for i in sorted(wrong, key=lambda i: -confidence[i])[:WORST]:
        sources = rows[i].sources
        order = sorted(range(min(len(weights[i]), len(rows[i].hits))), key=lambda j: -weights[i][j])
        cited = [
            {
                "doc_id": sources[j] if j < len(sources) else None,
                "label": rows[i].hits[j].label,
                "weight": round(weights[i][j], 4),
            }
            for j in order[:CITED]
        ]
        found.append(
            {
                "id": rows[i].id,
                "truth": rows[i].label,
                "said": said[i],
                "confidence": round(confidence[i], 4),
                "citations": cited,
            }
        )
    return found
