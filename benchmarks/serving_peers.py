"""Other servers on the same weights, text in, label out, beside Footnote in the same run.

    python -m benchmarks.serving_peers --environments DIR [--documents 100000] [--seconds 8]

`DIR` holds one virtual environment a peer, so that no peer's packages meet ours:

    DIR/infinity   torch==2.13.0 infinity-emb[torch,server]==0.0.78 (brings transformers 4.57.6)
    DIR/litserve   torch==2.13.0 litserve==0.2.19 transformers==5.23.0
    DIR/txtai      torch==2.13.0 txtai[api]==9.14.0 (brings transformers 5.24.0)

(torch first, from where its CPU build is.) The peers serve all-MiniLM-L6-v2 with a linear head, a
logistic regression fitted on AG News over the encoder's own pooled state: what the library's class
for sequence classification can hold. Each is a process of its own on loopback with its own
batching, fp32 (which is what they do when nothing is said), at one thread and at two; LitServe,
whose model is the user's own code, in bf16 too. Footnote runs at its default arithmetic (bf16 where
the processor has it) and in fp32, over so many documents, where it retrieves for every answer, and
with retrieval off.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.data import rows, short_passages
from benchmarks.serving.server import (
    ASKED,
    CLIENTS,
    UNTRAINED,
    K,
    asks,
    build,
    running,
    timed,
)
from benchmarks.tools.folders import ROOT, RUNS
from benchmarks.tools.load import post_bytes, run_load
from model.encoder.encoder import Encoder, default_folder

FITTED_ON = 1_000
COMPARED = 10
READY_S = 120.0


def export(folder: Path) -> Path:
    """The encoder with a fitted linear head, in the library's own format."""
    if (folder / "config.json").exists():
        return folder
    names = ["World", "Sports", "Business", "Technology"]
    train = list(islice(rows("ag_news/train_subset"), FITTED_ON))
    labels = sorted({str(row["label"]) for row in train})
    config = AutoConfig.from_pretrained(default_folder(), num_labels=len(labels))
    config.id2label = dict(enumerate(labels if len(labels) != len(names) else names))
    config.label2id = {name: i for i, name in config.id2label.items()}
    model = AutoModelForSequenceClassification.from_pretrained(default_folder(), config=config)
    tokenizer = AutoTokenizer.from_pretrained(default_folder())
    model.eval()
    states = []
    with torch.inference_mode():
        for start in range(0, len(train), 50):
            texts = [row["text"] for row in train[start : start + 50]]
            tokens = tokenizer(
                texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            states.append(model.bert(**tokens).pooler_output)
        fitted = LogisticRegression(max_iter=1_000)
        fitted.fit(torch.cat(states).numpy(), [labels.index(str(row["label"])) for row in train])
        model.classifier.weight.copy_(torch.from_numpy(fitted.coef_))
        model.classifier.bias.copy_(torch.from_numpy(fitted.intercept_))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is started (model, port, threads), asked, and read."""

    command: Callable[[Path, Path, int, int], list[str]]
    request: Callable[[str], tuple[str, dict[str, Any]]]
    label: Callable[[Any, dict[int, str]], str]


def txtai_command(environment: Path, model: Path, port: int, threads: int) -> list[str]:
    settings = RUNS / "peer-txtai.yml"
    settings.write_text(f"labels:\n  path: {model}\n  dynamic: false\n  gpu: false\n")
    return [
        str(environment / "bin/python"), "-m", "uvicorn", "txtai.api:app",
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
    ]  # fmt: skip


def infinity_command(environment: Path, model: Path, port: int, threads: int) -> list[str]:
    return [
        str(environment / "bin/infinity_emb"), "v2", "--model-id", str(model),
        "--served-model-name", "peer", "--device", "cpu", "--engine", "torch",
        "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port),
        "--log-level", "warning",
    ]  # fmt: skip


def litserve_command(
    dtype: str, environment: Path, model: Path, port: int, threads: int
) -> list[str]:
    script = ROOT / "benchmarks" / "peers" / "litserve_server.py"
    return [
        str(environment / "bin/python"), str(script), str(model), str(port), str(threads), dtype
    ]  # fmt: skip


PEERS = {
    "infinity": Peer(
        infinity_command,
        lambda text: ("/classify", {"model": "peer", "input": [text]}),
        lambda answer, names: str(answer["data"][0][0]["label"]),
    ),
    **{
        name: Peer(
            partial(litserve_command, dtype),
            lambda text: ("/predict", {"input": text}),
            lambda answer, names: str(answer["label"]),
        )
        for name, dtype in (("litserve", "float32"), ("litserve-bf16", "bfloat16"))
    },
    "txtai": Peer(
        txtai_command,
        lambda text: ("/label", {"text": text, "labels": []}),
        lambda answer, names: names[int(answer[0]["id"])],
    ),
}


@contextmanager
def served(peer: Peer, environment: Path, model: Path, threads: int) -> Iterator[int]:
    """The port of a peer that answers. Raises RuntimeError with its log when it does not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    count = str(threads)
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "CONFIG": str(RUNS / "peer-txtai.yml"),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    log_path = RUNS / "peer.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            peer.command(environment, model, port, threads),
            env=variables,
            cwd=RUNS,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        path, body = peer.request("ready?")
        began = time.perf_counter()
        while True:
            if process.poll() is not None or time.perf_counter() - began > READY_S:
                raise RuntimeError(log_path.read_text()[-2_000:])
            try:
                url = f"http://127.0.0.1:{port}{path}"
                if httpx.post(url, json=body, timeout=10).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def loads(port: int, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """One client, then many."""
    run_load(port, requests[:20], clients=4, seconds=2, most=40)  # warm
    one = run_load(port, requests, clients=1, seconds=seconds, most=ASKED)
    many = run_load(port, requests, clients=CLIENTS, seconds=seconds)
    return {"one": timed(one), "many": timed(many)}


def measure(
    environments: Path, documents: int, seconds: float, names: Sequence[str]
) -> dict[str, Any]:
    """Every peer, then Footnote, with the same texts."""
    encoder = Encoder.load()
    passages = list(islice(short_passages(documents + ASKED), documents + ASKED))
    store, texts = build(passages[:-ASKED], encoder), passages[-ASKED:]
    model = export(RUNS / "peer-model").resolve()
    labels = dict(enumerate(AutoConfig.from_pretrained(model).id2label.values()))
    figures: dict[str, Any] = {"benchmark": "serving_peers", "documents": documents}
    said: dict[str, list[str]] = {}
    for name in names:
        peer = PEERS[name]
        requests = [post_bytes(*peer.request(text)) for text in texts]
        for threads in (1, 2):
            folder = environments / name.removesuffix("-bf16")
            with served(peer, folder, model, threads) as port:
                said[name] = []
                for text in texts[:COMPARED]:
                    path, body = peer.request(text)
                    answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body).json()
                    said[name].append(peer.label(answer, labels))
                figures[f"{name}, threads {threads}"] = loads(port, requests, seconds)
            print(name, threads, figures[f"{name}, threads {threads}"], flush=True)
    if len({tuple(answers) for answers in said.values()}) > 1:
        raise RuntimeError(f"the peers do not serve the same model: {said}")
    for threads, dtype in ((1, "auto"), (2, "auto"), (1, "fp32")):
        with running(store, threads, dtype) as server:
            for name, requests in (
                ("retrieval, trained head", asks(texts, k=K)),
                ("retrieval, neighbours only", asks(texts, UNTRAINED, k=K)),
                ("closed book, trained head", asks(texts, mode="off")),
            ):
                key = f"footnote, {name}, threads {threads}, {dtype}"
                figures[key] = loads(server.port, requests, seconds)
                print(key, figures[key], flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Serving peers on the same weights.")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="bound of each load")
    parser.add_argument("--only", nargs="*", choices=tuple(PEERS), default=tuple(PEERS))
    given = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("the peers are started and stopped as Linux processes")
    RUNS.mkdir(exist_ok=True)
    print(json.dumps(measure(given.environments, given.documents, given.seconds, given.only)))


if __name__ == "__main__":
    main()
