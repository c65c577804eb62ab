"""Classification, through the code that serves: ``python -m benchmarks.classification``.

Each run (a set, a variant, a seed) writes one line to ``benchmarks/runs/classification.jsonl`` and
is not run again while it stands there; ``--only NAME...`` chooses. The last line printed is one
JSON object with the figures. Test parts are read once, at the end of a run; what is chosen is
chosen on a tenth of train, by hash.

Retrieval here is the exact product over the base encoder's vectors, never a near-duplicate.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data.classification import Example, Split, load, neighbours, to_rows
from benchmarks.peers.classification import frozen, tfidf
from benchmarks.tools.folders import RUNS
from benchmarks.tools.progress import Line
from benchmarks.tools.statistics import paired_interval
from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.labels.prediction import Prediction
from model.metrics import accuracy, auroc, calibration_error, macro_f1
from model.reader import Reader
from model.training.driver import train_head
from model.training.labels import LabelTraining

K = 48
FIELD = "label"
FEW_SHOT_TEST = 2000
Figures = dict[str, Any]


def answer(
    reader: Reader,
    test: Split,
    hits: Sequence[Sequence[Retrieved]],
    labels: Sequence[str],
    field: str = FIELD,
) -> list[Prediction]:
    """Predictions in the order of the rows, batched by length, by the code that serves."""
    tokens = reader.encoder.tokenize([row.text for row in test.rows])
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    out: dict[int, Prediction] = {}
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        states = reader.read([tokens[i] for i in part], [field] * len(part))
        found = reader.predict(states, [hits[i] for i in part], field, index_labels=labels)
        out.update(zip(part, found, strict=True))
    return [out[i] for i in range(len(order))]


def figures(test: Split, predictions: Sequence[Prediction]) -> Figures:
    truth = [row.label for row in test.rows]
    said = [str(p.label) for p in predictions]
    right = [t == s for t, s in zip(truth, said, strict=True)]
    return {
        "accuracy": accuracy(truth, said),
        "macro_f1": macro_f1(truth, said),
        "ece": calibration_error([p.confidence for p in predictions], right),
        "right": "".join("1" if r else "0" for r in right),
    }


def fit(
    name: str, train: Split, hits: list[list[Retrieved]], encoder: Encoder, **settings: Any
) -> tuple[Reader, Figures]:
    """Train on rows with their hits, load what was written."""
    out = RUNS / "checkpoints" / name
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()

    config = TrainConfig(k=K, **settings)
    rows = to_rows(train, hits)
    report = train_head(
        LabelTraining(rows, config, encoder, baseline=False), out, progress=Line(name)
    )
    kept = {
        "dev": {view: m["accuracy"] for view, m in report.metrics.items()},
        "calibration": report.calibration,
        "k": report.k,
        "epochs": report.extra["best_epoch"],
        "tokens_per_s": report.tokens_per_second,
        "train_s": time.monotonic() - began,
    }
    return Reader.load(out, encoder), kept


def full(name: str, seed: int, variant: str, encoder: Encoder, *, layers: int = 3) -> Figures:
    """Trained on all of train. `on` and `off` are one network; `none` never saw a hit."""
    train, test = load(name, encoder)
    labels = sorted({row.label for row in train.rows})
    own, dropped = neighbours(train, train, K)
    found, dropped_test = neighbours(test, train, K)
    nothing: list[list[Retrieved]] = [[] for _ in test.rows]
    retrieval = variant != "none"
    reader, kept = fit(
        f"{name}-{variant}-{seed}-{layers}", train, own, encoder,
        seed=seed, retrieval=retrieval, layers=layers,
    )  # fmt: skip
    off = figures(test, answer(reader, test, nothing, labels))
    if not retrieval:
        return {"none": off, **kept}
    on = figures(test, answer(reader, test, found, labels))
    return {"on": on, "off": off, "dropped": [dropped, dropped_test], **kept}


def untrained(name: str, encoder: Encoder) -> Figures:
    """Labels in the index, no head."""
    train, test = load(name, encoder)
    found, dropped = neighbours(test, train, K)
    reader = Reader.load(None, encoder)
    return {**figures(test, answer(reader, test, found, [])), "dropped": dropped}


def few_shot(name: str, each: int, draw: int, encoder: Encoder) -> Figures:
    """So many labelled rows of each label, and nothing else."""
    train, test = load(name, encoder)
    # A fixed part of a large test part: ten draws over all of it would cost an hour here.
    test = test.take(sorted(random.Random(0).sample(range(len(test.rows)), FEW_SHOT_TEST)))
    small = train.take(draw_rows(train.rows, each, draw))
    own, _ = neighbours(small, small, K)
    found, _ = neighbours(test, small, K)
    untrained_ = figures(test, answer(Reader.load(None, encoder), test, found, []))
    reader, kept = fit(f"{name}-{each}shot-{draw}", small, own, encoder, seed=draw, holdout=0.0)
    on = figures(test, answer(reader, test, found, []))
    peer = frozen(small, test)
    return {"on": on, "neighbours": untrained_, "frozen_lr": peer["accuracy"], **kept}


def draw_rows(rows: Sequence[Example], each: int, seed: int) -> list[int]:
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    left = {row.label: each for row in rows}
    picked: list[int] = []
    for i in order:
        if left[rows[i].label] > 0:
            left[rows[i].label] -= 1
            picked.append(i)
    return sorted(picked)


def new_intents(
    seed: int, encoder: Encoder, *, new: int = 20, shown: Sequence[int] = (1, 3, 10)
) -> Figures:
    """Intents that no head was trained on, then indexed with a few examples each."""
    train, test = load("banking77", encoder)
    names = sorted({row.label for row in train.rows})
    fresh = set(random.Random(seed).sample(names, new))
    old = train.take([i for i, row in enumerate(train.rows) if row.label not in fresh])
    own, _ = neighbours(old, old, K)
    reader, kept = fit(f"banking77-new-{seed}", old, own, encoder, seed=seed)
    before_hits, _ = neighbours(test, old, K)
    before = answer(reader, test, before_hits, [])
    is_new = [row.label in fresh for row in test.rows]

    def share(said: Sequence[Prediction], which: bool) -> float:
        pairs = zip(said, test.rows, is_new, strict=True)
        right = [p.label == row.label for p, row, n in pairs if n is which]
        return sum(right) / len(right)

    def apart(score: Callable[[Prediction], float]) -> float:
        inside = [score(p) for p, n in zip(before, is_new, strict=True) if not n]
        return auroc(inside, [score(p) for p, n in zip(before, is_new, strict=True) if n])

    after: Figures = {}
    for each in shown:
        drawn = draw_rows(train.rows, each, seed)
        extra = train.take([i for i in drawn if train.rows[i].label in fresh])
        grown = Split(old.rows + extra.rows, np.concatenate([old.vectors, extra.vectors]))
        said = answer(reader, test, neighbours(test, grown, K)[0], sorted(fresh))
        after[str(each)] = {"recall_new": share(said, True), "others": share(said, False)}
    return {
        "others_before": share(before, False),
        "after": after,
        "auroc_support": apart(lambda p: p.support),
        "auroc_confidence": apart(lambda p: p.confidence),
        "auroc_product": apart(lambda p: p.support * p.confidence),
        **kept,
    }


def foreign(seed: int, encoder: Encoder) -> Figures:
    """SST-2 sentences put to the Banking77 head: can they be told from its own test part?"""
    checkpoint = RUNS / "checkpoints" / f"banking77-on-{seed}-3"
    reader = Reader.load(checkpoint if checkpoint.exists() else None, encoder)
    train, test = load("banking77", encoder)
    _, other = load("sst2", encoder)
    inside = answer(reader, test, neighbours(test, train, K)[0], [])
    outside = answer(reader, other, neighbours(other, train, K)[0], [])
    scores: dict[str, Callable[[Prediction], float]] = {
        "support": lambda p: p.support,
        "confidence": lambda p: p.confidence,
        "product": lambda p: p.support * p.confidence,
    }
    return {
        f"auroc_{n}": auroc([f(p) for p in inside], [f(p) for p in outside])
        for n, f in scores.items()
    } | {"head": checkpoint.exists()}


def peers(name: str, encoder: Encoder) -> Figures:
    train, test = load(name, encoder)
    return {"tfidf_lr": tfidf(train, test), "frozen_lr": frozen(train, test)}


def plan(seeds: int, draws: int) -> dict[str, Callable[[Encoder], Figures]]:
    """All runs by name, cheap and telling ones first."""
    runs: dict[str, Callable[[Encoder], Figures]] = {}
    for name in ("ag_news", "banking77", "trec6", "sst2"):
        runs[f"untrained/{name}"] = partial(untrained, name)
        runs[f"peers/{name}"] = partial(peers, name)
    for seed in range(seeds):
        for name in ("trec6", "banking77", "sst2", "ag_news"):
            for variant in ("on", "none"):
                runs[f"{variant}/{name}/{seed}"] = partial(full, name, seed, variant)
                # Adapters on all layers: what the task needs may lie below the top three.
                deep = partial(full, name, seed, variant, layers=6)
                runs[f"{variant}-6/{name}/{seed}"] = deep
        runs[f"new-intents/{seed}"] = partial(new_intents, seed)
        runs[f"foreign/{seed}"] = partial(foreign, seed)
        runs[f"10-shot/banking77/{seed}"] = partial(few_shot, "banking77", 10, seed)
    for draw in range(draws):
        runs[f"8-shot/ag_news/{draw}"] = partial(few_shot, "ag_news", 8, draw)
        runs[f"64-shot/ag_news/{draw}"] = partial(few_shot, "ag_news", 64, draw)
    return runs


def summary(done: dict[str, Figures]) -> Figures:
    """Figures without the item-wise parts, means over seeds, and intervals against *none*."""
    out: Figures = {name: plain(row) for name, row in done.items()}
    sets = ("trec6", "banking77", "sst2", "ag_news")
    for name, deep in ((name, deep) for name in sets for deep in ("", "-6")):
        seeds = [(f"on{deep}/{name}/{seed}", f"none{deep}/{name}/{seed}") for seed in range(100)]
        pairs = [
            (done[on]["on"]["right"], done[none]["none"]["right"])
            for on, none in seeds
            if on in done and none in done
        ]
        if pairs:
            on, none = (np.array([[c == "1" for c in row] for row in side]).mean(0)
                        for side in zip(*pairs, strict=True))  # fmt: skip
            mean, low, high = paired_interval(on, none)
            out[f"on-none{deep}/{name}"] = {
                "mean": mean,
                "low": low,
                "high": high,
                "seeds": len(pairs),
            }
    return out


def plain(row: Any) -> Any:
    if isinstance(row, dict):
        return {k: plain(v) for k, v in row.items() if k != "right"}
    return round(row, 5) if isinstance(row, float) else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=None, help="prefixes of run names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    log = RUNS / "classification.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    runs = plan(arguments.seeds, arguments.draws)
    wanted = [
        n for n in runs if arguments.only is None or any(n.startswith(p) for p in arguments.only)
    ]
    if arguments.list:
        print("\n".join(wanted))
        return
    encoder = Encoder.load()
    for name in wanted:
        if name in finished(log):
            continue
        began = time.monotonic()
        row = {"run": name, **runs[name](encoder)}
        row["wall_s"] = time.monotonic() - began
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(plain(row)), flush=True)
    print(json.dumps(summary({n: r for n, r in finished(log).items() if n in wanted})))


def finished(log: Path) -> dict[str, Figures]:
    if not log.exists():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {row.pop("run"): row for row in rows}


if __name__ == "__main__":
    main()
