"""The gate under load: a worse head is refused, a better one let in, and no request fails."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.tiny import WORDS
from tests.e2e.process import ServerProcess

ROWS = 250  # enough for the gate to tell a head that has learned from one that has not
LABELS = ("good", "bad", "very")
PROPER = {"epochs": 16, "lr": 1e-2, "batch_size": 16}
FEW = 36
NOVEL = {"epochs": 1, "optimizer": "sgd", "lr": 1e-6, "holdout": 0.5}
"""Of few documents: neither network nor n-grams learn much."""
PAUSE_S = 0.1  # between two questions of a client: the job has the same processor
WAIT_S = 120.0  # for one answer: a machine that is busy with something else must not fail a build


def rows() -> list[dict[str, Any]]:
    """One of eight words tells the label: heads learn which, neighbours are alike in the rest."""
    rng = random.Random(3)
    topics = [word for words in WORDS.values() for word in words]
    made = []
    for i in range(ROWS):
        label = LABELS[i % len(LABELS)]
        words = [label, *rng.sample(topics, 7)]
        rng.shuffle(words)
        part = {"part": "few" if i < FEW else "rest"}
        made.append({"id": f"d{i}", "text": " ".join(words), "label": label, "metadata": part})
    return made


@contextmanager
def asking(url: str) -> Iterator[list[tuple[int, str]]]:
    """Two clients that ask on and on; the status and the model's version of every answer."""
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=WAIT_S) as client:
            while not stop.wait(PAUSE_S):
                answer = client.post("/classify", json={"input": ["my parcel is late", "refund"]})
                version = answer.json().get("model_info", {}).get("version", "")
                answers.append((answer.status_code, version))

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        stop.set()
        for client in clients:
            client.join(WAIT_S + 10)
            assert not client.is_alive()


def trained(url: str, **order: Any) -> dict[str, Any]:
    """The result of a training job."""
    body = {"field": "label", "holdout": 0.3, **order}
    started = httpx.post(f"{url}/admin/train", json=body, timeout=WAIT_S)
    assert started.status_code == 202, started.text
    deadline = time.monotonic() + 600
    while True:
        job = httpx.get(url + started.headers["location"], timeout=WAIT_S).json()
        if job["state"] not in ("queued", "running"):
            break
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    assert job["state"] == "succeeded", job["problem"]
    result: dict[str, Any] = job["result"]
    return result


def post(url: str) -> None:
    """All documents, those that are there again."""
    posted = httpx.post(
        f"{url}/documents",
        content="\n".join(map(json.dumps, rows())),
        headers={"content-type": "application/x-ndjson"},
        timeout=WAIT_S,
    )
    assert posted.json()["accepted"] == ROWS


def active(url: str) -> str:
    return str(httpx.get(f"{url}/admin/models", timeout=WAIT_S).json()["active"])


@pytest.mark.slow
def test_a_worse_head_is_refused_and_a_better_one_let_in(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    server = ServerProcess(tmp_path, tiny_encoder)
    server.start()
    url = server.url
    try:
        post(url)
        with asking(url) as answers:
            first = trained(url, **PROPER, activate="always")
            assert active(url) == first["version"]

            rest = {"filter": {"metadata.part": "rest"}}
            gone = httpx.post(f"{url}/documents:delete", json=rest, timeout=WAIT_S)
            assert gone.json()["deleted"] == ROWS - FEW
            worse = trained(url, **NOVEL)
            post(url)
            figures = worse["gate"]
            assert not worse["activated"], worse["reason"]
            assert figures["against"] == "previous"
            assert figures["worse"] > figures["better"]
            assert figures["difference"] < 0
            assert f"{figures['worse']} worse of {figures['rows']}" in worse["reason"]
            assert active(url) == first["version"]

            # A person insists on the worse one: now the same training again is surely better.
            forced = httpx.post(f"{url}/admin/models/{worse['version']}/activate", timeout=WAIT_S)
            assert forced.status_code == 200, forced.text
            better = trained(url, **PROPER)
            assert better["activated"], better["reason"]
            assert better["gate"]["against"] == "previous"
            assert better["gate"]["lower_90"] >= 0
            assert active(url) == better["version"]
            time.sleep(1)
        assert {status for status, _ in answers} == {200}
        served = list(dict.fromkeys(version for _, version in answers))
        wanted = [first["version"], worse["version"], better["version"]]
        assert [version for version in served if version in wanted] == wanted
    finally:
        server.stop()
