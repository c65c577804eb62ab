"""Serving: a real `footnote serve` over HTTP, beside the bare forward pass in the same run.

    python -m benchmarks.serving [--documents 100000] [--seconds 15]

Passages of 20 words of novels_en and britannica_1810 (`FOOTNOTE_DATA` names their folder). The
built store and the vectors are kept in benchmarks/runs; the first run encodes every passage, which
takes about 20 minutes for 100,000 on one slow core. Texts that are asked are passages beyond those
that are indexed. The load generator runs on the same cores as the server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import httpx
import numpy as np
import torch

from app.inference.loading import inference_threads
from app.records.registry import Registry
from app.settings import Settings
from benchmarks.data import short_passages
from benchmarks.serving.server import (
    ASKED,
    CLIENTS,
    UNTRAINED,
    K,
    Server,
    asks,
    build,
    running,
    timed,
)
from benchmarks.tools.folders import RUNS
from benchmarks.tools.load import post_bytes, run_load
from model.config import pick_dtype
from model.encoder.encoder import Encoder
from model.reader import Reader

POSTED = 100


def bare(texts: Sequence[str], encoder: Encoder, seconds: float) -> dict[str, float]:
    """The reading pass alone on the server's threads, no HTTP and no retrieval: texts a second."""
    torch.set_num_threads(inference_threads(Settings()))
    choice = Registry(RUNS / "no-checkpoints").choose()
    reader = Reader.load(choice.folder, encoder)
    tokens = [reader.tokenize(text) for text in texts]
    found: dict[str, float] = {}
    for size in (1, 32):
        done, began, start = 0, time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            batch = [tokens[(start + i) % len(tokens)] for i in range(size)]
            reader.read(batch, ["label"] * size)
            done, start = done + size, start + size
        rate = done / (time.perf_counter() - began)
        found[f"texts_s_batch_{size}"] = round(rate, 1)
    return found


def found(server: Server, texts: Sequence[str]) -> int:
    """How many of the documents that `writing` posted come first in a search by default."""
    url = f"http://127.0.0.1:{server.port}/search"
    answers = [httpx.post(url, json={"query": t, "k": 1}, timeout=10).json() for t in texts]
    return sum(a["hits"][0]["doc_id"] in (f"one{i}", f"two{i}") for i, a in enumerate(answers))


def writing(server: Server, texts: Sequence[str]) -> dict[str, float]:
    """One document until it counts, and many at once with vectors and without waiting for them."""
    single = [
        post_bytes("/documents", {"id": f"one{i}", "text": t, "label": "new"})
        for i, t in enumerate(texts[:POSTED])
    ]
    one = run_load(server.port, single, clients=1, seconds=30, most=len(single))
    durable = [
        post_bytes("/documents?wait=durable", {"id": f"two{i}", "text": t})
        for i, t in enumerate(texts[:POSTED])
    ]
    time.sleep(1)
    fast = run_load(server.port, durable, clients=1, seconds=30, most=len(durable))
    time.sleep(2)
    rates = {}
    for wait, count in (("indexed", 400), ("durable", 5_000)):
        lines = [
            json.dumps({"id": f"{wait}{i}", "text": f"{texts[i % len(texts)]} {i}"})
            for i in range(count)
        ]
        body = "\n".join(lines).encode()
        request = post_bytes(f"/documents?wait={wait}", body, kind="application/x-ndjson")
        answer = run_load(server.port, [request], clients=1, seconds=120, most=1)
        rates[f"bulk_{wait}_documents_s"] = round(count / (answer.ms[0] / 1000), 1)
    return {
        "one_p50_ms": one.percentile(50),
        "one_p99_ms": one.percentile(99),
        "one_durable_p50_ms": fast.percentile(50),
        "found_first": found(server, texts[:POSTED]),
        **rates,
    }


def measure(count: int, seconds: float) -> dict[str, Any]:
    """All figures for so many documents."""
    encoder = Encoder.load(dtype=pick_dtype("auto", "cpu"))  # the server's own arithmetic
    passages = list(islice(short_passages(count + ASKED), count + ASKED))
    store = build(passages[:-ASKED], encoder)
    texts = passages[-ASKED:]
    lengths = [len(ids) for ids in encoder.tokenize(texts)]
    figures: dict[str, Any] = {
        "documents": count,
        "tokens_mean": round(float(np.mean(lengths)), 1),
        "dtype": str(encoder.dtype),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bare": bare(texts, encoder, min(seconds, 10)),
    }
    with running(store) as server:
        figures["cold_start_s"] = round(server.cold_start_s, 2)
        figures["memory_ready_mb"] = server.memory_mb()
        run_load(server.port, asks(texts[:20], k=K), clients=1, seconds=seconds)  # warm
        for name, retrieval in (
            ("bm25", {"method": "bm25", "k": K}),
            ("hybrid", {"method": "hybrid", "k": K}),
            ("bm25_k1", {"method": "bm25", "k": 1}),
            ("bm25_k50", {"method": "bm25", "k": 50}),
            ("closed_book", {"mode": "off"}),
        ):
            requests = asks(texts, **retrieval)
            one = run_load(server.port, requests, clients=1, seconds=seconds, most=ASKED)
            figures[f"one_client_{name}"] = timed(one)
        for method in ("bm25", "hybrid"):
            requests = asks(texts, method=method, k=K)
            many = timed(run_load(server.port, requests, clients=CLIENTS, seconds=seconds))
            share = many["requests_s"] / figures["bare"]["texts_s_batch_32"]
            figures[f"clients_{CLIENTS}_{method}"] = {**many, "of_bare": round(share, 3)}
        untrained = asks(texts, UNTRAINED, k=K)
        figures["one_client_untrained"] = timed(
            run_load(server.port, untrained, clients=1, seconds=seconds, most=ASKED)
        )
        figures["memory_after_load_mb"] = server.memory_mb()
        figures["writing"] = writing(server, texts)
    with running(store, threads=2) as server:
        for name in ("bm25", "hybrid"):
            requests = asks(texts, method=name, k=K)
            one = run_load(server.port, requests, clients=1, seconds=seconds, most=ASKED)
            figures[f"one_client_{name}_two_threads"] = timed(one)
    k1, k50 = figures["one_client_bm25_k1"], figures["one_client_bm25_k50"]
    figures["k50_over_k1"] = round(k50["p50_ms"] / k1["p50_ms"], 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of a real server over HTTP.")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="bound of each load")
    given = parser.parse_args()
    RUNS.mkdir(exist_ok=True)
    print(json.dumps(measure(given.documents, given.seconds)))


if __name__ == "__main__":
    main()
