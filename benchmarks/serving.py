"""Serving: a real `footnote serve` over HTTP, beside the bare forward pass in the same run.

    python -m benchmarks.serving [--documents 100000] [--seconds 15]

Passages of 20 words of novels_en and britannica_1810 (`FOOTNOTE_DATA` names their folder). The
built store and the vectors are kept in benchmarks/runs; the first run encodes every passage, which
takes about 20 minutes for 100,000 on one slow core. Texts that are asked are passages beyond those
that are indexed. The load generator runs on the same cores as the server.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray

from app.inference.loading import inference_threads
from app.jobs.reindex import FOLDER
from app.records.registry import Registry
from app.settings import Settings
from benchmarks.data import short_passages
from benchmarks.load import Answers, post_bytes, run_load
from index_data.documents import Document
from index_data.generations.build import build_generation
from index_data.generations.index import Index
from index_data.storage.store import DocumentStore
from model.config import pick_dtype
from model.encoder.encoder import Encoder
from model.reader import Reader

RUNS = Path(__file__).parent / "runs"
CHUNK = 5_000
LABELS = 8
UNTRAINED = "topic"
K = 10
ASKED = 400
CLIENTS = 64
POSTED = 100
READY_S = 120.0


def labels_of(number: int) -> dict[str, str | list[str]]:
    """A field that the shipped checkpoint has a head for, and one that it has not."""
    name = f"class {number % LABELS}"
    return {"label": name, UNTRAINED: name}


class Vectors:
    """Vectors of the passages, encoded once, in files of 5,000 beside the benchmarks."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self._known: dict[str, NDArray[np.float16]] = {}
        folder = RUNS / f"serving-vectors-{encoder.sha256[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            name = hashlib.sha256("\n".join(part).encode()).hexdigest()[:16]
            path = folder / f"{name}.npy"
            if not path.exists():
                np.save(path, encoder.encode(part).astype(np.float16))
                print(f"encoded {start + len(part)} of {len(texts)}", flush=True)
            self._known.update(zip(part, np.load(path, allow_pickle=False), strict=True))

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """[n, dim], as `build_generation` asks for them."""
        return np.stack([self._known[text] for text in texts]).astype(np.float32)


def build(texts: Sequence[str], encoder: Encoder) -> Path:
    """The store of the passages with a published generation; built once for each number."""
    folder = RUNS / f"serving-store-{len(texts)}-{encoder.sha256[:12]}"
    if (folder / "whole").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    vectors = Vectors(encoder, texts)
    store = DocumentStore(folder)
    documents = [
        Document(id=f"p{i}", text=text, lang="en", labels=labels_of(i))
        for i, text in enumerate(texts)
    ]
    for start in range(0, len(documents), 2_000):
        store.upsert(documents[start : start + 2_000]).result()
    built = build_generation(
        folder,
        folder / FOLDER,
        encode=vectors.encode,
        encoder_sha=encoder.sha256,
        passage_words=200,
    )
    Index(store, folder / FOLDER, encoder_sha=encoder.sha256).publish(built)
    store.close()
    (folder / "whole").touch()
    return folder


class Server:
    """A `footnote serve` process on a copy of a store, or on a new one with the sample."""

    def __init__(
        self,
        store: Path | None,
        folder: Path,
        threads: int = 0,
        dtype: str = "auto",
        generator: Path | None = None,
    ) -> None:
        if store is not None:
            shutil.copytree(store, folder / "store")
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FOOTNOTE_")},
            "FOOTNOTE_STORE_DIR": str(folder / "store"),
            "FOOTNOTE_CHECKPOINT_DIR": str(folder / "checkpoints"),
            "FOOTNOTE_SAMPLE": "0" if store is not None else "1",
            "FOOTNOTE_REINDEX_AFTER": "0",
            "FOOTNOTE_LOG_LEVEL": "warning",
            "FOOTNOTE_THREADS": str(threads),
            "FOOTNOTE_DTYPE": dtype,
            "FOOTNOTE_GENERATOR": "" if generator is None else str(generator),
        }
        self._log = folder / "server.txt"
        self.port = 0
        self.cold_start_s = 0.0

    def start(self) -> None:
        """Start it, and measure the time to ready."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        while time.perf_counter() - began < READY_S:
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text())
            listens = re.search(r"listens at \S+:(\d+)$", self._log.read_text(), re.MULTILINE)
            if not self.port and listens:
                self.port = int(listens[1])
            if self.port and self._ready():
                self.cold_start_s = time.perf_counter() - began
                return
            time.sleep(0.02)
        self._process.kill()
        raise RuntimeError("not ready in time")

    def _ready(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/health/ready"
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TimeoutException:  # a busy machine: not ready yet
            return False

    def memory_mb(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(x for x in status.splitlines() if x.startswith("VmRSS:"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@contextmanager
def running(
    store: Path | None, threads: int = 0, dtype: str = "auto", generator: Path | None = None
) -> Iterator[Server]:
    RUNS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        server = Server(store, Path(folder), threads, dtype, generator)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def asks(texts: Sequence[str], field: str = "label", **retrieval: Any) -> list[bytes]:
    """Requests to `/classify`, one a text."""
    return [
        post_bytes("/classify", {"input": text, "field": field, "retrieval": retrieval})
        for text in texts
    ]


def timed(answers: Answers) -> dict[str, float]:
    return {
        "p50_ms": answers.percentile(50),
        "p99_ms": answers.percentile(99),
        "requests_s": answers.rate,
        "answers": len(answers.ms),
        "refused": answers.others,
    }


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
