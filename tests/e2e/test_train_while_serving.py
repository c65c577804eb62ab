"""A training job over HTTP: its curve is watched, its checkpoint swapped in, no request fails."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.process import ServerProcess

WORDS = {
    "fruit": ["apple", "pear", "plum", "cherry", "grape", "melon", "peach", "quince"],
    "tool": ["hammer", "saw", "drill", "wrench", "pliers", "chisel", "file", "spanner"],
    "music": ["violin", "sonata", "choir", "drumming", "opera", "chord", "tempo", "melody"],
}


def corpus() -> list[dict[str, str]]:
    rows = []
    for label, words in WORDS.items():
        for i, first in enumerate(words):
            for second in words[i + 1 :]:
                text = f"please tell me about the {first} and a {second} of number {i}"
                rows.append({"id": f"{label}-{first}-{second}", "text": text, "label": label})
    return rows


class Client(threading.Thread):
    """Asks the same question over and over; keeps every answer."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.done = url, threading.Event()
        self.statuses: list[int] = []
        self.models: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.done.is_set():
                answer = client.post("/classify", json={"input": ["the plum", "a hammer"]})
                self.statuses.append(answer.status_code)
                self.models.append(answer.json()["model_info"]["sha256"])


@pytest.mark.slow
def test_a_better_checkpoint_is_swapped_in_under_load(tmp_path: Path, tiny_encoder: Path) -> None:
    server = ServerProcess(tmp_path, tiny_encoder)
    server.start()
    try:
        body = "\n".join(json.dumps(row) for row in corpus())
        headers = {"content-type": "application/x-ndjson"}
        posted = httpx.post(f"{server.url}/documents", content=body, headers=headers, timeout=60)
        assert posted.json()["accepted"] == len(corpus())
        client = Client(server.url)
        client.start()
        order = {"task": "classification", "field": "label", "epochs": 3, "activate": "always"}
        started = httpx.post(f"{server.url}/admin/train", json=order, timeout=30)
        assert started.status_code == 202, started.text
        location = server.url + started.headers["location"]
        job, steps = {}, set()
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            job = httpx.get(location, timeout=30).json()
            steps.add(job["progress"].get("step"))
            if job["state"] not in ("queued", "running"):
                break
            time.sleep(0.05)
        assert job["state"] == "succeeded", (job["problem"], server.tail())
        time.sleep(1)
        client.done.set()
        client.join(30)
        assert set(client.statuses) == {200}
        assert len(set(client.models)) == 2, "the new checkpoint answers, the old one before it"
        in_order = sorted(client.models, key=client.models.index)
        assert client.models == in_order, "one swap, no return"
        assert len(steps) > 2, "the curve could be watched"
        answer = httpx.post(f"{server.url}/classify", json={"input": "a cherry and a grape"})
        assert answer.json()["data"][0]["label"] == "fruit"
    finally:
        server.stop()


@pytest.mark.slow
def test_a_second_server_on_the_same_store_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    first = ServerProcess(tmp_path, tiny_encoder)
    second = ServerProcess(tmp_path, tiny_encoder)
    first.start()
    try:
        with pytest.raises(RuntimeError, match=str(first.port)):
            second.start()
    finally:
        first.stop()
