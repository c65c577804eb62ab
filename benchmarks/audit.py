"""Flipped labels of Banking77 found again, beside cleanlab: ``python -m benchmarks.audit``.

5 % of the training labels are replaced (``uniform``: by any other; ``near``: by one of the five
whose class mean is nearest, which is how people err). cleanlab gets the same rows and the same
out-of-fold probabilities. The settings of the audit were chosen with other seeds (10 and 11).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data.classification import Split, load
from index_data.documents import normalise
from model.encoder.encoder import Encoder
from model.metrics import auroc
from model.training.audit import audit

SHARE = 0.05
TOP = 500
CLEANLAB = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
Labels = NDArray[np.int64]


def uniform(truth: Labels, vectors: NDArray[np.float32], rng: np.random.Generator) -> Labels:
    """Another label, any."""
    n = int(truth.max()) + 1
    return (truth + rng.integers(1, n, len(truth))) % n


def near(truth: Labels, vectors: NDArray[np.float32], rng: np.random.Generator) -> Labels:
    """One of the five labels that are most like the right one."""
    means = np.stack([vectors[truth == label].mean(0) for label in range(int(truth.max()) + 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    likeness = means @ means.T
    np.fill_diagonal(likeness, -1.0)
    order = np.argsort(-likeness, axis=1)[:, :5]
    chosen: Labels = order[truth, rng.integers(0, 5, len(truth))]
    return chosen


NOISES: dict[str, Callable[..., Labels]] = {"uniform": uniform, "near": near}


def flipped(
    split: Split, noise: str, seed: int
) -> tuple[list[str], Labels, NDArray[np.bool_], Labels]:
    """Names, true labels, which rows are wrong, and the labels that stand then."""
    names = sorted({row.label for row in split.rows})
    truth = np.array([names.index(row.label) for row in split.rows])
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(truth), dtype=bool)
    wrong[rng.choice(len(truth), int(SHARE * len(truth)), replace=False)] = True
    return names, truth, wrong, np.where(wrong, NOISES[noise](truth, split.vectors, rng), truth)


def run(split: Split, noise: str, seed: int) -> dict[str, Any]:
    """One noise, one seed: AUROC and precision at 500 of each way to rank the rows."""
    from cleanlab.rank import get_label_quality_scores

    _, truth, wrong, labels = flipped(split, noise, seed)
    texts: dict[str, int] = {}
    groups = [texts.setdefault(normalise(row.text), len(texts)) for row in split.rows]
    began = time.process_time()
    found = audit(split.vectors, labels, groups, seed=seed)
    seconds = time.process_time() - began
    ranked = {"footnote": found.score}
    for method in CLEANLAB:
        quality = get_label_quality_scores(labels, found.head, method=method)
        ranked[f"cleanlab {method}"] = 1 - quality
    right = found.suggested[wrong] == truth[wrong]
    figures = {
        name: {
            "auroc": auroc(score[wrong].tolist(), score[~wrong].tolist()),
            "precision_at_500": float(wrong[np.argsort(-score, kind="stable")[:TOP]].mean()),
        }
        for name, score in ranked.items()
    }
    return {
        "noise": noise,
        "seed": seed,
        "cpu_s": seconds,
        "suggestion_right": float(right.mean()),
        **figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=list(NOISES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, _ = load("banking77", Encoder.load(None, device="cpu"))
    runs = [run(train, noise, seed) for noise in options.noise for seed in options.seeds]
    for one in runs:
        print(json.dumps(one), flush=True)
    table: dict[str, dict[str, dict[str, float]]] = {}
    above: dict[str, float] = {}
    for noise in options.noise:
        mine = [one for one in runs if one["noise"] == noise]
        table[noise] = {
            name: {
                figure: round(float(np.mean([one[name][figure] for one in mine])), 4)
                for figure in ("auroc", "precision_at_500")
            }
            for name in ("footnote", *(f"cleanlab {method}" for method in CLEANLAB))
        }
        best = max(table[noise][f"cleanlab {method}"]["auroc"] for method in CLEANLAB)
        above[noise] = round(table[noise]["footnote"]["auroc"] - best, 4)
    print(json.dumps({"audit": table, "above_cleanlab": above, "rows": len(train.rows)}))


if __name__ == "__main__":
    main()
