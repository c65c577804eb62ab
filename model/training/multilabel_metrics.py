"""Figures for answers that are sets of labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Sets = Sequence[Sequence[str]]


def row_f1(truth: Sequence[str], said: Sequence[str]) -> float:
    """2 |T and S| / (|T| + |S|) of one row; 1 where both are empty."""
    true, given = set(truth), set(said)
    total = len(true) + len(given)
    return 2 * len(true & given) / total if total else 1.0


def f1_by_label(truth: Sets, said: Sets) -> dict[str, float]:
    """F1 of each label that occurs on either side."""
    pairs = [(set(t), set(s)) for t, s in zip(truth, said, strict=True)]
    scores: dict[str, float] = {}
    for label in sorted({label for t, s in pairs for label in t | s}):
        right = sum(label in t and label in s for t, s in pairs)
        total = sum(label in t for t, _ in pairs) + sum(label in s for _, s in pairs)
        scores[label] = 2 * right / total
    return scores


def set_scores(truth: Sets, said: Sets) -> dict[str, float]:
    """Figures of sets: what they are is said beside each."""
    pairs = [(set(t), set(s)) for t, s in zip(truth, said, strict=True)]
    right = sum(len(t & s) for t, s in pairs)
    total = sum(len(t) + len(s) for t, s in pairs)
    by_label = f1_by_label(truth, said)
    kinds = sorted({label for t, _ in pairs for label in t})
    return {
        # Over all decisions.
        "micro_f1": 2 * right / total if total else 0.0,
        # The mean over the labels of the truth, and over the rows.
        "macro_f1": float(np.mean([by_label[label] for label in kinds])) if kinds else 0.0,
        "row_f1": float(np.mean([row_f1(t, s) for t, s in zip(truth, said, strict=True)]))
        if pairs
        else 0.0,
        # The whole set is right.
        "accuracy": sum(t == s for t, s in pairs) / len(pairs) if pairs else 0.0,
        "rows": float(len(pairs)),
    }
