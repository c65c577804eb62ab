"""A real `footnote serve` in a process of its own, on a store of passages, and what it is asked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from app.jobs.inputs import INDEX
from benchmarks.tools.folders import RUNS
from benchmarks.tools.load import Answers, post_bytes
from index_data.documents import Document
from index_data.generations.build import build_generation
from index_data.generations.index import Index
from index_data.storage.store import DocumentStore
from model.encoder.encoder import Encoder

CHUNK = 5_000
LABELS = 8
UNTRAINED = "topic"
K = 10
ASKED = 400
CLIENTS = 64
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
        folder / INDEX,
        encode=vectors.encode,
        encoder_sha=encoder.sha256,
        passage_words=200,
    )
    Index(store, folder / INDEX, encoder_sha=encoder.sha256).publish(built)
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
        }
        if generator is not None:
            self._environment["FOOTNOTE_GENERATOR"] = str(generator)
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
