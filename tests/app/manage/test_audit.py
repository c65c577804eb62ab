"""``/admin/audit-labels``: a flipped label is found, corrected or dismissed, and stays so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.jobs import audit as audit_job
from app.records.audits import Audits
from app.settings import Settings
from index_data.storage.store import DocumentStore
from tests.app.conftest import serving
from tests.app.manage.test_admin import wait
from tests.app.tiny import documents

FLIPPED = {"fruit-3": "tool", "music-5": "fruit"}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]
) -> Iterator[TestClient]:
    with serving(settings_for(tmp_path_factory.mktemp("audit"))) as client:
        rows = [replace(d, labels={"label": FLIPPED.get(d.id, d.labels["label"])})
                for d in documents(20)]  # fmt: skip
        body = {"documents": [row.to_json() for row in rows]}
        assert client.post("/documents", json=body).status_code == 200
        yield client


def audited(client: TestClient) -> dict[str, Any]:
    queued = client.post("/admin/audit-labels", json={"folds": 4})
    assert queued.status_code == 202, queued.text
    job = wait(client, queued.json())
    assert job["state"] == "succeeded", job
    page: dict[str, Any] = client.get(f"/admin/audit-labels/{job['id']}").json()
    assert page["total"] == job["result"]["found"]
    return page


def test_wrong_labels_are_found_corrected_and_dismissed(server: TestClient) -> None:
    page = audited(server)
    found = {f["doc_id"]: f for f in page["findings"]}
    assert {"fruit-3", "music-5"} <= found.keys()
    one = found["fruit-3"]
    assert (one["label"], one["suggested"], one["state"]) == ("tool", "fruit", "open")
    assert one["score"] > 0.5
    assert one["contradicting"]
    assert all(c["label"] != "tool" and c["text"] for c in one["contradicting"])
    path = f"/admin/audit-labels/{page['audit_id']}"
    decision = {"correct": [{"doc_id": "fruit-3"}], "dismiss": ["music-5"]}
    done = server.post(path, json=decision).json()
    assert (done["corrected"], done["dismissed"]) == (1, 1)
    assert server.get("/documents/fruit-3").json()["label"] == "fruit"
    states = {f["doc_id"]: f["state"] for f in server.get(path).json()["findings"]}
    assert (states["fruit-3"], states["music-5"]) == ("corrected", "dismissed")

    again = {f["doc_id"] for f in audited(server)["findings"]}
    assert not {"fruit-3", "music-5"} & again
    changed = {**server.get("/documents/music-5").json(), "labels": {"label": "tool"}}
    kept = {k: changed[k] for k in ("text", "labels")}
    assert server.put("/documents/music-5", json=kept).status_code == 200
    assert "music-5" in {f["doc_id"] for f in audited(server)["findings"]}

    assert server.delete("/documents/fruit-3").status_code == 200
    states = {f["doc_id"]: f["state"] for f in server.get(path).json()["findings"]}
    assert states["fruit-3"] == "gone"
    answer = server.post(path, json={"correct": [{"doc_id": "fruit-3"}]})
    assert answer.json()["errors"][0]["pointer"] == "#/correct/0/doc_id"
    first = server.get(path, params={"limit": 1}).json()
    assert len(first["findings"]) == 1
    assert first["next_offset"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/admin/audit-labels", {"field": "nobody_has_it"}, 422),
        ("/admin/audit-labels", {"folds": 1}, 422),
        ("/admin/audit-labels/job_none", {}, 404),
    ],
)
def test_bad_orders(server: TestClient, path: str, body: Any, status: int) -> None:
    assert server.post(path, json=body).status_code == status


def test_another_job_is_no_audit(server: TestClient) -> None:
    job = wait(server, server.post("/admin/reindex", json={}).json())
    assert server.get(f"/admin/audit-labels/{job['id']}").status_code == 404


def test_the_findings_of_old_audits_go(tmp_path: Any) -> None:
    store = DocumentStore(tmp_path / "store")
    audits = Audits(store)
    finding = {
        "doc_id": "a", "label": "x", "suggested": "y", "score": 0.9,
        "head": {}, "neighbours": {}, "contradicting": [],
    }  # fmt: skip
    for number in range(12):
        audits.put(f"job_{number}", [finding, finding])
    kept = [n for n in range(12) if audits.page(f"job_{n}", 0, 9)]
    assert kept == list(range(2, 12))
    store.close()


def test_the_type_is_the_address() -> None:
    assert audit_job.TYPE == "audit-labels"
