"""What a server answers before it serves its store whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.inference.indexer import WRITES, Indexer
from app.startup import StartUp
from index_data.documents import parse_document
from tests.app.conftest import corpus, serving, state, wait_ready

CHARGED = "I was charged twice for one order"
GIVEN = {
    "mode": "provided",
    "documents": [{"id": "a", "text": CHARGED, "label": "billing"}],
}
FROM_INDEX: list[tuple[str, dict[str, Any]]] = [
    ("/classify", {"input": CHARGED}),
    ("/v1/classify", {"input": CHARGED}),
    *(
        ("/predict", {"task": task, "input": given})
        for task, given in {
            "classification": CHARGED,
            "sentiment": CHARGED,
            "ner": CHARGED,
            "qa": {"question": "Where is my parcel?"},
            "dialogue": {"messages": [{"role": "user", "content": CHARGED}]},
        }.items()
    ),
    (
        "/v1/chat/completions",
        {"model": "footnote", "messages": [{"role": "user", "content": CHARGED}]},
    ),
]


@pytest.fixture
def left(tmp_path: Path, settings_for: Any) -> Path:
    """A folder with a store that a server was stopped on before it had made vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Indexer, "_vectors", lambda self, documents: (None, None))
        with serving(settings_for(tmp_path)) as client:
            assert client.post("/documents", json={"documents": corpus()}).status_code == 200
    return tmp_path


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set no document gets a vector."""
    go, vectors = threading.Event(), Indexer._vectors

    def wait(self: Indexer, documents: Any) -> Any:
        assert go.wait(60)
        return vectors(self, documents)

    monkeypatch.setattr(Indexer, "_vectors", wait)
    yield go
    go.set()


def until_stage(client: TestClient, stage: str) -> None:
    """Wait until the start is at a stage."""
    deadline = time.monotonic() + 60
    while stage not in state(client).status.stage:
        assert time.monotonic() < deadline, state(client).status
        time.sleep(0.01)


def refuses(client: TestClient) -> None:
    """Every prediction that needs the index is told to come again; the others are answered."""
    for path, body in FROM_INDEX:
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1"), (path, body)
        problem = answer.json()
        assert problem.get("type") == "/problems/not-ready" or path.startswith("/v1"), problem
    said = client.post("/classify", json={"input": CHARGED}).json()["detail"]
    assert state(client).status.stage in said
    given = client.post("/classify", json={"input": CHARGED, "retrieval": GIVEN})
    assert given.json()["data"][0]["label"] == "billing"
    closed = client.post("/classify", json={"input": CHARGED, "retrieval": {"mode": "off"}})
    assert closed.status_code == 200


def test_no_answer_while_the_sample_is_being_filled(
    tmp_path: Path, settings_for: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = [parse_document(d) for d in corpus()]
    monkeypatch.setattr("index_data.sample.helpdesk", lambda: iter(sample))
    with serving(settings_for(tmp_path, sample=True), ready=False) as client:
        until_stage(client, "sample")
        refuses(client)
        held.set()
        assert wait_ready(client)["degraded"] == []
        assert client.post("/classify", json={"input": CHARGED}).json()["data"][0]["citations"]


def test_no_answer_until_documents_that_were_left_have_vectors(
    left: Path, settings_for: Any, held: threading.Event
) -> None:
    with serving(settings_for(left), ready=False) as client:
        until_stage(client, "catching up")
        refuses(client)
        held.set()
        wait_ready(client)
        answer = client.post("/classify", json={"input": CHARGED}).json()
        assert (answer["degraded"], answer["data"][0]["label"]) == ([], "billing")


def test_documents_that_get_no_vectors_do_not_hold_the_start(
    left: Path, settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = Indexer._vectors

    def broken(self: Indexer, documents: Any) -> Any:
        raise ValueError("no vectors")

    monkeypatch.setattr(Indexer, "_vectors", broken)
    with serving(settings_for(left), ready=False) as client:
        (why,) = wait_ready(client)["degraded"]
        assert "not all writes" in why
        assert client.post("/classify", json={"input": CHARGED}).json()["degraded"] == [why]
        monkeypatch.setattr(Indexer, "_vectors", vectors)
        assert client.post("/documents", json={"text": "one more"}).status_code == 200
        deadline = time.monotonic() + 60
        while WRITES in state(client).snapshots.faults:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_no_answer_before_the_model_and_none_after_a_failed_start(
    tmp_path: Path, settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def load(self: StartUp) -> None:
        assert go.wait(60)
        raise OSError("no space left")

    monkeypatch.setattr(StartUp, "_load_model", load)
    completion = {"model": "footnote", "prompt": CHARGED}
    with serving(settings_for(tmp_path), ready=False) as client:
        for again in (False, True):
            for path, body in [*FROM_INDEX, ("/v1/completions", completion)]:
                off = {**body, "retrieval": {"mode": "off"}}
                answer = client.post(path, json=off)
                assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1"), path
            said = client.post("/classify", json={"input": CHARGED}).json()["detail"]
            assert ("/health/ready says why" in said) is again
            go.set()
            while not state(client).status.failed:
                time.sleep(0.01)
