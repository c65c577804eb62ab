"""Own labels, nothing trained: ``python -m benchmarks.own_data [--sets NAME...] [--only SIZE...]``.

Every labelled set of the evaluation data at 10 rows a label, 64 a label and all rows (5,000 at
most, for the peers' sake), with three draws of the rows. The instant head (`benchmarks.instant`)
beside logistic regression on TF-IDF of words, on TF-IDF of characters and on the frozen vectors,
and the nearest neighbours; accuracy on at most 1,500 test rows that none of them saw. Each figure
is one line of ``benchmarks/runs/own_data.jsonl`` and is not computed again while it stands there;
``--again`` computes the head's anew. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.data.classification import Split
from benchmarks.data.own_data import NAMES, draw, load
from benchmarks.instant.head import Document, InstantHead
from benchmarks.peers.own_data import PEERS, READ_BY_CHARACTER
from benchmarks.tools.folders import RUNS
from model.encoder.encoder import Encoder
from model.metrics import calibration_error

SIZES: dict[str, int | None] = {"10": 10, "64": 64, "all": None}
MOST = 5_000
SEEDS = 3
HEAD = "instant head"
PATH = RUNS / "own_data.jsonl"
Figures = dict[str, float]


def instant_head(name: str, train: Split, test: Split) -> Figures:
    """Accuracy, calibration error, what leave-one-out says, and times."""
    readable = name not in READ_BY_CHARACTER
    head = InstantHead(train.vectors.shape[1])
    began = time.monotonic()
    head.add(
        *(
            Document(row.id, row.text, vector, row.label, readable)
            for row, vector in zip(train.rows, train.vectors, strict=True)
        )
    )
    added = time.monotonic()
    head.fit()
    fitted = time.monotonic()
    right, confidence = [], []
    for row, vector in zip(test.rows, test.vectors, strict=True):
        labels, p = head.predict(row.text, vector)
        best = int(p.argmax())
        right.append(labels[best] == row.label)
        confidence.append(float(p[best]))
    done = time.monotonic()
    return {
        "accuracy": float(np.mean(right)),
        "ece": calibration_error(confidence, right),
        "left_out": head.leave_one_out().accuracy,
        "add_us": 1e6 * (added - began) / len(train.rows),
        "fit_s": fitted - added,
        "predict_us": 1e6 * (done - fitted) / len(test.rows),
    }


class Kept:
    """Figures by set, size, seed and model, in a file."""

    def __init__(self) -> None:
        self.figures: dict[tuple[str, ...], Figures] = {}
        if PATH.exists():
            for line in PATH.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.figures[tuple(row["key"])] = row["figures"]

    def of(self, key: tuple[str, ...], make: Callable[[], Figures], *, again: bool) -> None:
        """Compute and append, unless it stands there."""
        if key in self.figures and not again:
            return
        self.figures[key] = make()
        PATH.parent.mkdir(parents=True, exist_ok=True)
        with PATH.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "figures": self.figures[key]}) + "\n")
        print(*key, {k: round(v, 4) for k, v in self.figures[key].items()}, flush=True)


def measure(
    kept: Kept, sets: Sequence[str], sizes: Sequence[str], seeds: int, *, again: bool
) -> None:
    encoder = Encoder.load(None)
    for seed in range(seeds):
        for size in sizes:
            for name in sets:
                pool, test = load(name, encoder)
                train = pool.take(draw(pool, SIZES[size], MOST, seed))
                key = (name, size, str(seed))
                kept.of((*key, HEAD), partial(instant_head, name, train, test), again=again)
                for peer, fit in PEERS.items():
                    kept.of((*key, peer), partial(accuracy, fit, name, train, test), again=False)


def accuracy(fit: Callable[[str, Split, Split], float], *of: Any) -> Figures:
    return {"accuracy": fit(*of)}


def table(kept: Kept, sets: Sequence[str], sizes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each set and size: means over the seeds that every model has, in percent."""
    rows = []
    for name in sets:
        for size in sizes:
            seeds = [
                seed
                for seed in map(str, range(SEEDS))
                if all((name, size, seed, m) in kept.figures for m in (HEAD, *PEERS))
            ]
            if not seeds:
                continue

            def mean(model: str, figure: str = "accuracy", at: Any = (name, size, seeds)) -> float:
                values = [kept.figures[at[0], at[1], s, model][figure] for s in at[2]]
                return round(100 * float(np.mean(values)), 1)

            peers = {peer: mean(peer) for peer in PEERS}
            best = max(peers, key=lambda p: peers[p])
            head = mean(HEAD)
            rows.append(
                {"set": name, "size": size, "seeds": len(seeds), **peers, "best": best}
                | {HEAD: head, "difference": round(head - peers[best], 1)}
                | {"ece": mean(HEAD, "ece"), "left_out": mean(HEAD, "left_out")}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--again", action="store_true", help="the instant head anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept()
    measure(kept, arguments.sets, arguments.only, arguments.seeds, again=arguments.again)
    rows = table(kept, arguments.sets, arguments.only)
    for row in rows:
        print(*row.values(), sep=" | ")
    least = min(row["difference"] for row in rows)
    above = sum(row["difference"] > 0 for row in rows)
    print(json.dumps({"rows": rows, "least_difference": least, "above": above, "of": len(rows)}))


if __name__ == "__main__":
    main()
