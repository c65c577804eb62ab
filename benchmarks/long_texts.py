"""Long reviews, four ways of reading them: ``python -m benchmarks.long_texts``.

IMDB (for measuring only: no weights that ship are trained on it). A head of its own for each way,
on the same rows with the same hits:

    head       the first 256 tokens
    head-tail  the first and the last 127 tokens in one window (Sun et al. 2019)
    windows    up to 4 windows of 256 tokens (the first, the last and between them), each through
               the adapter; the fusion layer attends over all of them and the mean of their
               states is classified
    memory     head-tail, with the review's own chunks of 128 tokens as retrieved, unlabelled hits
               before those of the index: what lies beyond the window is looked up

`on` and `off` are one network with and without hits; `none/WAY` was trained without. Training rows
and test rows are fixed parts by hash (`--rows`, `--test`; 0: all). A run is one line in
``benchmarks/runs/long_texts.jsonl`` and is not run again while it stands there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from benchmarks.classification import finished, plain
from benchmarks.data.classification import Example, Split, neighbours, read, with_vectors
from benchmarks.peers.classification import tfidf
from benchmarks.tools.folders import RUNS, SHIPPED
from benchmarks.tools.progress import Line
from benchmarks.tools.statistics import paired_interval
from index_data.documents import normalise
from model.config import TrainConfig, bf16_products
from model.encoder.encoder import Encoder
from model.encoder.windows import split_windows
from model.labels.memory import Retrieved
from model.metrics import accuracy, calibration_error
from model.reader import Reader
from model.training.driver import train_head
from model.training.labels import LabelTraining
from model.training.split import Row

FIELD: Final = "sentiment"
K: Final = 16
OWN_CHUNKS: Final = 8  # as many as the fusion layer attends to
WINDOWS: Final = {"head": 1, "head-tail": 1, "windows": 4, "memory": 1}
TAIL: Final = 127
LONG: Final = 256  # tokens: reviews beyond it are reported apart
AT_ONCE: Final = 16
Hits = list[list[Retrieved]]


def part(rows: list[Example], count: int) -> list[Example]:
    """A fixed part, by hash of the text."""
    keyed = sorted(rows, key=lambda r: hashlib.sha256(r.text.encode()).hexdigest())
    return keyed[: count or len(keyed)]


def load(encoder: Encoder, rows: int, test: int) -> tuple[Split, Split]:
    """Training and test reviews with base vectors; test texts that stand in train are left out."""
    train = read("imdb", "train_subset")
    known = {normalise(row.text) for row in train}
    fresh = [row for row in read("imdb", "test_subset") if normalise(row.text) not in known]
    with bf16_products(encoder.device):
        return (
            with_vectors(part(train, rows), encoder, "imdb-train"),
            with_vectors(part(fresh, test), encoder, "imdb-test"),
        )


def head_tail(text: str, encoder: Encoder) -> str:
    """The text's first and last words, as many as fill one window."""
    words = text.split()
    first, last = _fitting(words, encoder), _fitting(words[::-1], encoder)
    if first + last >= len(words):
        return text
    return " ".join([*words[:first], *words[-last:]])


def _fitting(words: Sequence[str], encoder: Encoder) -> int:
    """How many of the first words have at most `TAIL` tokens."""
    some = list(words[:TAIL])
    counts = [len(ids) - 2 for ids in encoder.tokenize(some)]
    return int((np.cumsum(counts) <= TAIL).sum())


def own_chunks(rows: Sequence[Example], encoder: Encoder) -> Hits:
    """Each review's chunks as hits without a label."""
    split = [
        split_windows([ids], 128)[0]
        for ids in encoder.tokenize([r.text for r in rows], max_tokens=128, windows=OWN_CHUNKS)
    ]
    with bf16_products(encoder.device):
        vectors = iter(encoder.encode_tokens([ids for chunks in split for ids in chunks]))
    return [[Retrieved(None, "", None, 1.0, next(vectors)) for _ in chunks] for chunks in split]


def seen_as(way: str, split: Split, hits: Hits, encoder: Encoder) -> tuple[list[str], Hits]:
    """What a way of reading makes of the rows."""
    if way in ("head", "windows"):
        return [row.text for row in split.rows], hits
    texts = [head_tail(row.text, encoder) for row in split.rows]
    if way == "head-tail":
        return texts, hits
    own = own_chunks(split.rows, encoder)
    return texts, [mine + found for mine, found in zip(own, hits, strict=True)]


def answer(reader: Reader, texts: Sequence[str], hits: Hits, way: str) -> list[tuple[str, float]]:
    """Label and confidence of each text, by the code that serves."""
    tokens = reader.encoder.tokenize(texts, windows=WINDOWS[way])
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    said: dict[int, tuple[str, float]] = {}
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        with bf16_products(reader.encoder.device):  # as it is served
            states = reader.read([tokens[i] for i in some], [FIELD] * len(some))
            found = reader.predict(states, [hits[i] for i in some], FIELD, index_labels=[])
        said.update({i: (str(p.label), p.confidence) for i, p in zip(some, found, strict=True)})
    return [said[i] for i in range(len(order))]


def figures(test: Split, said: list[tuple[str, float]], lengths: Sequence[int]) -> dict[str, Any]:
    truth = [row.label for row in test.rows]
    right = [t == s for t, (s, _) in zip(truth, said, strict=True)]
    long = [r for r, n in zip(right, lengths, strict=True) if n > LONG]
    return {
        "accuracy": accuracy(truth, [s for s, _ in said]),
        "accuracy_long": sum(long) / max(len(long), 1),
        "ece": calibration_error([c for _, c in said], right),
        "right": "".join("1" if r else "0" for r in right),
    }


def run(name: str, options: argparse.Namespace, encoder: Encoder) -> dict[str, Any]:
    """One way of reading, trained and measured."""
    train, test = load(encoder, options.rows, options.test)
    variant, _, way = name.rpartition("/")
    lengths = [len(ids) for ids in encoder.tokenize([r.text for r in test.rows], windows=64)]
    share = {"rows": len(train.rows), "test": len(test.rows)}
    share["test_long"] = sum(n > LONG for n in lengths)
    if way == "tfidf":
        score = tfidf(train, test)
        return {"off": score, **share}
    retrieval = variant != "none"
    texts, hits = seen_as(way, train, neighbours(train, train, K)[0], encoder)
    config = TrainConfig(
        field=FIELD, task="sentiment", k=K + (OWN_CHUNKS if way == "memory" else 0),
        epochs=options.epochs, batch_size=16, windows=WINDOWS[way], retrieval=retrieval,
        layers=options.layers, seed=options.seed,
    )  # fmt: skip
    rows = [Row(e.id, t, e.label, h) for e, t, h in zip(train.rows, texts, hits, strict=True)]
    out = RUNS / "checkpoints" / f"imdb-{name.replace('/', '-')}-{len(rows)}-{options.seed}"
    shutil.rmtree(out, ignore_errors=True)
    began = time.process_time()

    report = train_head(
        LabelTraining(rows, config, encoder, baseline=False), out, progress=Line(name)
    )
    kept = {
        **share,
        "dev": {view: m["accuracy"] for view, m in report.metrics.items()},
        "dev_rows": report.held_out,
        "train_cpu_s": time.process_time() - began,
    }
    reader = Reader.load(out, encoder)
    texts, hits = seen_as(way, test, neighbours(test, train, K)[0], encoder)
    off = [[h for h in found if h.label is None] for found in hits]  # its own chunks stay
    closed = figures(test, answer(reader, texts, off, way), lengths)
    if not retrieval:
        return {"none": closed, **kept}
    return {"on": figures(test, answer(reader, texts, hits, way), lengths), "off": closed, **kept}


def untrained(options: argparse.Namespace, encoder: Encoder) -> dict[str, Any]:
    """The head that ships, which saw short tickets only, with the book closed: each way of reading.

    What serves long texts before anybody trains on some.
    """
    _, test = load(encoder, options.rows, options.test)
    lengths = [len(ids) for ids in encoder.tokenize([r.text for r in test.rows], windows=64)]
    reader = Reader.load(SHIPPED, encoder)
    none: Hits = [[] for _ in test.rows]
    out: dict[str, Any] = {"test": len(test.rows), "test_long": sum(n > LONG for n in lengths)}
    for way in ("head", "head-tail", "windows"):
        texts, _ = seen_as(way, test, none, encoder)
        out[way] = figures(test, answer(reader, texts, none, way), lengths)
    for way in ("head-tail", "windows"):
        ours, theirs = ([c == "1" for c in out[w]["right"]] for w in (way, "head"))
        out[f"{way} - head"] = paired_interval(ours, theirs)
    return out


def speed(encoder: Encoder, words: int = 2000, times: int = 15) -> dict[str, Any]:
    """Milliseconds (median) to read a review of so many words, tokenising included, two threads."""
    torch.set_num_threads(2)
    reader = Reader.load(SHIPPED, encoder)
    some = " ".join(row.text for row in read("imdb", "test_subset")[:20]).split()
    text = " ".join(some[:words])
    out: dict[str, Any] = {"words": words}
    for windows in (1, 2, 4, 64):
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            tokens = reader.tokenize(text, windows=windows)
            states = reader.read([tokens], [FIELD])
            reader.predict(states, [[]], FIELD, index_labels=[])
            taken.append(1000 * (time.perf_counter() - began))
        out[f"windows={windows}"] = {"tokens": len(tokens), "p50_ms": float(np.median(taken))}
    return out


def differences(done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each way, retrieval on, against head-tail on the same rows, with a 95 % interval."""
    out: dict[str, Any] = {}
    base = done.get("head-tail")
    for name, row in done.items():
        mine = row.get("on") or row.get("none") or row.get("off")
        if base is None or mine is None or name == "head-tail":
            continue
        ours, theirs = ([c == "1" for c in side] for side in (mine["right"], base["on"]["right"]))
        if len(ours) == len(theirs):
            mean, low, high = paired_interval(ours, theirs)
            out[f"{name} - head-tail"] = {"mean": mean, "low": low, "high": high}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="only time a review of 2,000 words")
    parser.add_argument(
        "--shipped", action="store_true", help="the head that ships, untrained on it"
    )
    parser.add_argument(
        "--only", nargs="*", default=["tfidf", "windows", "head-tail", "head", "memory"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    suffix = f"@{options.rows}x{options.epochs}/{options.test}/{options.layers}/{options.seed}"
    log = RUNS / "long_texts.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load()
    if options.speed:
        print(json.dumps(plain(speed(encoder))))
        return
    if options.shipped:
        print(json.dumps(plain(untrained(options, encoder))))
        return
    for name in options.only:
        if f"{name}{suffix}" in finished(log):
            continue
        row = {"run": f"{name}{suffix}", **run(name, options, encoder)}
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(plain(row)), flush=True)
    done = {n.partition("@")[0]: r for n, r in finished(log).items() if n.endswith(suffix)}
    print(json.dumps({**plain(done), "differences": differences(done)}))


if __name__ == "__main__":
    main()
