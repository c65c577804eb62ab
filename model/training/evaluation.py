"""How good a head of labels is, and what its report shows beside the figures.

Confusion, reliability, the worst mistakes, and the head against each baseline on the same rows.
Rows are named by their ids and never by their texts, so that a report keeps nothing of a document
that is erased. Sizes: n rows, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.labels.memory import make_memory
from model.labels.neighbours import plain_vote
from model.metrics import Compared, Paired, f1_by_label, row_f1
from model.reader import Reader
from model.training.calibration import Evidence
from model.training.label_examples import Prepared
from model.training.split import Row

BINS = 10
WORST = 20
CITED = 3
ANSWERED_AT_ONCE = 64
SHOWN = 0.02
"""Of independent labels, those below are so many and so surely right that they hide the others."""
Answers = list[list[str]]
"""The labels that each row is answered with."""


def neighbours_alone(
    data: Prepared, rows: Sequence[int], labels: Sequence[str], k: int, *, multilabel: bool = False
) -> Tensor:
    """Some rows by hits alone with nothing learned: what the server does with no head.

    Probabilities [n, L].
    """
    hits = [data.hits[i] for i in rows]
    memory = make_memory(hits, labels, data.base.shape[1], k, multilabel=multilabel)
    return plain_vote(data.base[list(rows)], memory, len(labels)).probs


def answers_of(
    reader: Reader,
    field: str,
    labels: Sequence[str],
    data: Prepared,
    places: Sequence[int],
    rows: Sequence[Row],
) -> Answers:
    """What another head says to rows, which stand at `places` in the data: as it is served."""
    answers: Answers = []
    for start in range(0, len(rows), ANSWERED_AT_ONCE):
        part = slice(start, start + ANSWERED_AT_ONCE)
        tokens = [data.token_ids[i] for i in places[part]]
        states = reader.read(tokens, [field] * len(tokens))
        hits = [row.hits for row in rows[part]]
        predictions = reader.predict(states, hits, field, index_labels=labels)
        answers += [one.answered for one in predictions]
    return answers


def halves(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both ways to fit on one half [n] of some rows and to measure on the other."""
    half = torch.arange(rows) % 2 == 0
    yield half, ~half
    yield ~half, half


def diagnose(
    rows: Sequence[Row],
    answers: Mapping[str, Answers],
    evidence: Evidence,
    probs: Tensor,
    decisions: tuple[Tensor, Tensor],
    *,
    multilabel: bool,
) -> dict[str, Any]:
    """The `diagnosis` of a report. `probs` [n, L] and `answers` by condition are of `rows`.

    `decisions`: confidences, and whether each was right. A set of labels is not taken for another
    set, so there is no confusion of sets.
    """
    truth = [row.names for row in rows]
    confidence, right = decisions
    figures: dict[str, Any] = {
        "by_label": {name: f1_by_label(truth, one) for name, one in answers.items()},
        "support": dict(Counter(name for names in truth for name in names)),
    }
    if multilabel:
        shown = confidence >= SHOWN
        confidence, right = confidence[shown], right[shown]
    else:
        figures["confusion"] = confusion(truth, answers["on"])
    return figures | {
        "reliability": reliability(confidence.tolist(), right.tolist()),
        "worst": worst(rows, answers["on"], evidence, probs, multilabel=multilabel),
        "paired": paired(truth, answers),
    }


def paired(truth: Answers, answers: Mapping[str, Answers]) -> dict[str, dict[str, int]]:
    """The answers `on` against those of each other condition: rows with a better, a worse F1."""
    f1 = {
        name: [row_f1(t, a) for t, a in zip(truth, given, strict=True)]
        for name, given in answers.items()
    }
    ours = f1.pop("on")
    return {name: Paired.of(ours, theirs).to_json() for name, theirs in f1.items()}


def confusion(truth: Answers, answers: Answers) -> list[list[Any]]:
    """[truth, answer, rows] for each pair that occurs, the most frequent first."""
    pairs = Counter((t, a) for (t,), (a,) in zip(truth, answers, strict=True))
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
    rows: Sequence[Row], answers: Answers, evidence: Evidence, probs: Tensor, *, multilabel: bool
) -> list[dict[str, Any]]:
    """The wrong answers of the lowest F1, the surest first, with the hits of the most weight."""
    weights = evidence.neighbours(probs.shape[1]).weights.tolist()
    sure = probs.amax(-1).tolist()
    f1 = [row_f1(row.names, answer) for row, answer in zip(rows, answers, strict=True)]
    wrong = sorted((i for i in range(len(rows)) if f1[i] < 1), key=lambda i: (f1[i], -sure[i]))
    shown = []
    for i in wrong[:WORST]:
        sources, hits = rows[i].sources, rows[i].hits
        order = sorted(range(min(len(weights[i]), len(hits))), key=lambda j: -weights[i][j])
        shown.append(
            {
                "id": rows[i].id,
                "truth": ", ".join(rows[i].names),
                "said": ", ".join(answers[i]),
                "confidence": round(sure[i], 4),
                "citations": [
                    {
                        "doc_id": sources[j] if j < len(sources) else None,
                        "label": ", ".join(hits[j].names) if multilabel else hits[j].label,
                        "weight": round(weights[i][j], 4),
                    }
                    for j in order[:CITED]
                ],
            }
        )
    return shown


def compare(
    metric: str, counts: Mapping[str, Sequence[tuple[float, float]]], ours: str, feedback: int
) -> dict[str, Any]:
    """The part of a diagnosis whose figure is a ratio of sums (`model.metrics.Compared`).

    `counts`: of each row by condition, the last `feedback` rows being recorded feedback; `ours`:
    the condition of the new head. `paired` is on held-out rows; under `feedback`, `paired` is on
    the feedback alone and `together` on all rows.
    """
    held = len(counts[ours]) - feedback
    baselines = [name for name in counts if name != ours]

    def of(rows: slice) -> dict[str, Any]:
        return {
            name: Compared.of(metric, counts[ours][rows], counts[name][rows]).to_json()
            for name in baselines
        }

    compared: dict[str, Any] = {"paired": of(slice(held))}
    if feedback:
        compared["feedback"] = {
            "rows": feedback,
            "paired": of(slice(held, None)),
            "together": of(slice(None)),
        }
    return compared
