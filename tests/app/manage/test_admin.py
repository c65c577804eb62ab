"""``/admin`` over HTTP: jobs that do their work while the server serves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.jobs.job import Job
from app.jobs.reindex import submit_if_due
from app.settings import Settings
from tests.app.conftest import serving, state
from tests.app.tiny import documents

FINISHED = {"succeeded", "failed", "cancelled", "interrupted"}


def wait(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while job["state"] not in FINISHED:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
        job = client.get(f"/admin/jobs/{job['id']}").json()
    return job


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]
) -> Iterator[TestClient]:
    with serving(settings_for(tmp_path_factory.mktemp("admin"))) as client:
        body = {"documents": [document.to_json() for document in documents(16)]}
        assert client.post("/documents", json=body).status_code == 200
        yield client


@pytest.mark.slow
def test_a_trained_checkpoint_is_swapped_in_and_out(server: TestClient) -> None:
    order = {"field": "label", "epochs": 2, "batch_size": 16, "activate": "always"}
    answer = server.post("/admin/train", json=order)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/admin/jobs/{job['id']}"
    queued = server.post("/admin/reindex", json={}).json()  # waits for its turn
    with server.stream("GET", f"/admin/jobs/{job['id']}/events") as stream:
        events = [line for line in stream.iter_lines() if line.startswith(("event:", "data:"))]
    assert events[-2] == "event: done"
    done = json.loads(events[-1].removeprefix("data:"))
    assert done["state"] == "succeeded", done
    version = done["result"]["version"]
    assert done["result"]["activated"]
    assert {"on", "off", "none", "neighbours"} <= done["result"]["report"]["metrics"].keys()

    asked = server.post("/classify", json={"input": "tell plum about melon"}).json()
    assert asked["model_info"]["version"] == version
    models = server.get("/admin/models").json()
    assert models["active"] == version
    report = next(m for m in models["models"] if m["version"] == version)["heads"]["label"]
    assert report["curve"]

    assert wait(server, queued)["state"] == "succeeded"
    generations = server.get("/admin/indexes").json()
    assert [g["generation"] for g in generations["indexes"] if g["active"]] == [
        wait(server, queued)["result"]["generation"]
    ]

    measured = wait(server, server.post("/admin/evaluate", json={}).json())
    assert measured["result"]["metrics"].keys() == {"on", "off", "neighbours"}

    assert server.post("/admin/models/rollback").json()["version"] == "none"
    again = server.post("/classify", json={"input": "tell plum about melon"}).json()
    assert again["model_info"]["version"] == "none"
    assert server.post(f"/admin/models/{version}/activate").json()["version"] == version
    shown = server.get(f"/admin/models/{version}/report").json()
    assert shown["job_id"] == job["id"]
    assert shown["gate"]["wish"] == "always"
    assert shown["heads"]["label"]["diagnosis"]["confusion"]
    assert server.delete(f"/admin/models/{version}").status_code == 409  # it serves
    cancelled = server.post(f"/admin/jobs/{job['id']}/cancel")
    assert cancelled.json()["state"] == "succeeded"  # it stays what it was
    assert server.post(f"/admin/jobs/{job['id']}/resume").status_code == 409
    assert server.post("/admin/models/rollback").json()["version"] == "none"
    assert server.delete(f"/admin/models/{version}").json() == {"version": version}
    assert server.get(f"/admin/models/{version}/report").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("train", {"field": "nobody_has_it"}, "#/field"),
        ("train", {"lr": 0}, "#/lr"),
        ("train", {"lr": "fast"}, "#/lr"),
        ("train", {"epochs": 0}, "#/epochs"),
        ("train", {"holdout": 1.5}, "#/holdout"),
        ("train", {"optimizer": "magic"}, "#/optimizer"),
        ("train", {"retrieval": {"exclude_self": False}}, "#/retrieval/exclude_self"),
        ("train", {"unknown": 1}, "#/unknown"),
        ("train", [], "#"),
        ("reindex", {"mode": "sideways"}, "#/mode"),
        ("reindex", {"analyzer": "other"}, "#/analyzer"),
        ("evaluate", {"field": "nobody_has_it"}, "#/field"),
        ("evaluate", {"limit": 0}, "#/limit"),
        ("keys", {"scope": "root"}, "#/scope"),
        ("keys", {"scope": "predict"}, "#/scope"),
    ],
)
def test_a_bad_order_is_refused_with_its_place(
    server: TestClient, path: str, body: Any, pointer: str
) -> None:
    answer = server.post(f"/admin/{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


def test_a_single_label_is_refused_at_once(server: TestClient) -> None:
    rows = [{"id": f"m{i}", "text": f"a {i}", "labels": {"mood": "good"}} for i in range(3)]
    assert server.post("/documents", json={"documents": rows}).status_code == 200
    answer = server.post("/admin/train", json={"field": "mood"})
    assert answer.status_code == 422
    assert "same label" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/jobs/job_none"),
        ("POST", "/admin/jobs/job_none/cancel"),
        ("POST", "/admin/jobs/job_none/resume"),
        ("GET", "/admin/jobs/job_none/events"),
        ("POST", "/admin/models/none-such/activate"),
        ("POST", "/admin/models/..%2f..%2fetc/activate"),
        ("GET", "/admin/models/none-such/report"),
        ("DELETE", "/admin/models/none-such"),
        ("POST", "/admin/indexes/999/activate"),
        ("DELETE", "/admin/keys/0123456789"),
    ],
)
def test_what_is_not_there_is_not_found(server: TestClient, method: str, path: str) -> None:
    assert server.request(method, path).status_code == 404


def test_the_sample_goes_and_the_rest_stays(server: TestClient) -> None:
    rows = [
        {"id": f"s{i}", "text": f"sample number {i}", "metadata": {"source": "sample"}}
        for i in range(3)
    ]
    before = server.get("/documents").json()["total"]
    assert server.post("/documents", json={"documents": rows}).status_code == 200
    answer = server.delete("/admin/sample").json()
    assert answer["deleted"] == 3
    assert server.get("/documents").json()["total"] == before
    hits = server.post("/search", json={"query": "sample number", "method": "bm25"}).json()["hits"]
    assert not [hit for hit in hits if hit["doc_id"].startswith("s")]
    assert server.delete("/admin/sample").json()["deleted"] == 0


def test_only_an_admin_comes_in(tmp_path: Path, settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(tmp_path, admin_key="a", write_key="w", predict_key="p")
    with serving(settings, ready=False) as client:
        for key, status in (("a", 200), ("w", 403), ("p", 403), ("x", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.get("/admin/jobs", headers=headers).status_code == status
        assert client.get("/admin/jobs").status_code == 401
        headers = {"Authorization": "Bearer a"}
        body = {"scope": "write", "name": "importer"}
        made = client.post("/admin/keys", json=body, headers=headers).json()
        listed = client.get("/admin/keys", headers=headers)
        assert made["key"] not in listed.text
        own = next(key for key in listed.json()["keys"] if key["source"] == "store")
        assert client.get(
            "/documents", headers={"Authorization": f"Bearer {made['key']}"}
        ).is_success
        assert client.delete(f"/admin/keys/{own['id'][:10]}", headers=headers).is_success
        again = client.get("/documents", headers={"Authorization": f"Bearer {made['key']}"})
        assert again.status_code == 401


def test_a_delta_that_has_grown_is_built_into_a_generation(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path)) as client:
        footnote = state(client)

        def check() -> Job | None:
            return submit_if_due(footnote.jobs, footnote.open_index(), 10)

        assert check() is None
        body = {"documents": [document.to_json() for document in documents(4)]}
        client.post("/documents", json=body)
        job = check()
        assert job is not None
        assert check() is None  # one is on its way
        assert wait(client, job.to_json())["state"] == "succeeded"
        assert footnote.open_index().searcher.generation == 1
        assert check() is None
