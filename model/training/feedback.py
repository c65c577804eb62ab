"""A head and its rivals on recorded feedback: rows that no weight, gate or temperature has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model.labels.network import RetrievalAugmentedModel
from model.metrics import Compared, Paired, accuracy
from model.training.batches import Prepared, evidence_of
from model.training.calibration import Evidence
from model.training.evaluation import neighbours_alone


def judge_feedback(
    model: RetrievalAugmentedModel,
    data: Prepared,
    rows: Sequence[int],
    *,
    k: int,
    hits: int,
    previous: Sequence[str] | None,
) -> dict[str, Any]:
    """The `feedback` of a diagnosis: rows, accuracy by view, paired counts by rival.

    `rows`: which of `data` are feedback. `k`: hits the head reads; `hits`: those of the neighbours
    alone. `previous`: what the base's head says to them.
    """
    labels = model.config.labels
    evidence: Evidence = evidence_of(model, data, rows)[0].first(k)
    with torch.no_grad():
        probs = model.gate(evidence.logits, evidence.neighbours(len(labels))).probs
    views = {"on": probs, "neighbours": neighbours_alone(data, rows, labels, hits)}
    answers = {view: [labels[i] for i in p.argmax(-1).tolist()] for view, p in views.items()}
    if previous is not None:
        answers["previous"] = list(previous)
    truth = [labels[i] for i in evidence.truth.tolist()]
    right = {
        view: [t == s for t, s in zip(truth, said, strict=True)] for view, said in answers.items()
    }
    return {
        "rows": len(truth),
        "accuracy": {view: accuracy(truth, said) for view, said in answers.items()},
        "paired": {
            rival: Paired.of(right["on"], given).to_json()
            for rival, given in right.items()
            if rival != "on"
        },
    }


def compare_feedback(
    metric: str,
    ours: Sequence[tuple[float, float]],
    rivals: Mapping[str, Sequence[tuple[float, float]]],
    rows: int,
) -> dict[str, Any]:
    """The `feedback` of a diagnosis whose figure is a ratio of sums (`model.metrics.Compared`).

    Of held-out rows with the feedback, the last `rows`, behind them: the new head and each rival.
    `paired` is on the feedback alone, `together` on all.
    """
    return {
        "rows": rows,
        "paired": {
            rival: Compared.of(metric, ours[-rows:], theirs[-rows:]).to_json()
            for rival, theirs in rivals.items()
        },
        "together": {
            rival: Compared.of(metric, ours, theirs).to_json() for rival, theirs in rivals.items()
        },
    }
