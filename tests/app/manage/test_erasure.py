"""Erasing is honoured everywhere, and the receipt names what derived from the document."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient

from app.history.predictions import Output, Predictions
from app.schemas.documents import DeleteResponse
from model.provenance import DOCUMENTS, digests, trained_on
from tests.app.conftest import corpus, serving, state

SECRET = "Mrs Winterbottom-Featherstonehaugh was charged twice"
ASKED = "charged twice for one order"
ID = 'a "quoted" id é'


@pytest.fixture
def kept(tmp_path: Path, settings_for: Any) -> Any:
    """A server that stores predictions, with a document that is to be erased."""
    with serving(settings_for(tmp_path, store_predictions=True)) as client:
        client.post("/documents", json={"documents": corpus()})
        client.post("/documents", json={"id": ID, "text": SECRET, "label": "billing"})
        yield client


def erase(client: TestClient, name: str = ID, **headers: str) -> dict[str, Any]:
    answer = client.delete(f"/documents/{name}", params={"erase": True}, headers=headers)
    assert answer.status_code == 200, answer.text
    DeleteResponse.model_validate(answer.json())
    found: dict[str, Any] = answer.json()["receipt"]
    return found


def files_with(folder: Path, text: str) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_nothing_that_is_kept_quotes_it(kept: TestClient) -> None:
    folder = state(kept).settings.store_dir
    given = kept.post("/predict", json={"task": "classification", "input": ASKED}).json()
    other = kept.post("/classify", json={"input": "wonderful", "retrieval": {"k": 1}}).json()
    assert ID in [c["doc_id"] for c in given["data"][0]["citations"]]
    assert ID not in [c["doc_id"] for c in other["data"][0]["citations"]]
    assert files_with(folder, SECRET)

    receipt = erase(kept)
    assert receipt["document"]
    assert receipt["vectors"] == 1
    assert receipt["predictions"] == {"memory": 1, "stored": 1}
    assert receipt["snapshots"] == 1
    assert receipt["generations"] == []
    assert receipt["checkpoints_unknown"] == ["shipped"]

    for predictions in (state(kept).predictions, Predictions(state(kept).store)):
        told = predictions.get(given["id"]).answer()
        assert SECRET not in str(told)
        cited = {c["doc_id"]: c for c in told["data"][0]["citations"]}
        assert cited[ID]["erased"]
        assert not any("erased" in c for name, c in cited.items() if name != ID)
    assert files_with(folder, SECRET) == []
    assert files_with(folder, "Winterbottom") == []

    answer = kept.post(f"/predictions/{given['id']}/replay")
    assert (answer.status_code, answer.json()["gone"]) == (409, ["documents"])
    assert kept.post(f"/predictions/{other['id']}/replay").json()["replay"]["equal"]
    pin = {"index_sequence": given["index"]["sequence"]}
    body = {"task": "classification", "input": ASKED, "pin": pin}
    assert kept.post("/predict", json=body).json()["gone"] == ["index"]
    assert SECRET not in kept.post("/search", json={"query": ASKED}).text
    assert kept.get(f"/documents/{ID}").status_code == 404


def test_a_correction_is_erased_with_the_feedback_and_what_was_asked(kept: TestClient) -> None:
    given = kept.post("/classify", json={"input": SECRET.upper()}).json()
    body = {"input": SECRET.upper(), "label": "returns", "apply": "index"}
    corrected = kept.post("/feedback", json=body).json()
    receipt = erase(kept, corrected["doc_id"])
    assert receipt["feedback"] == 1
    assert kept.get("/feedback").text == ""
    # The text that was asked about is the erased document's own.
    assert kept.get(f"/predictions/{given['id']}").status_code == 404
    assert kept.get(f"/documents/{ID}").status_code == 200


def test_what_is_not_there(kept: TestClient) -> None:
    answer = kept.delete("/documents/nobody", params={"erase": True})
    assert answer.status_code == 404
    stale = {"If-Match": '"stale"'}
    answer = kept.delete(f"/documents/{ID}", params={"erase": True}, headers=stale)
    assert answer.status_code == 412
    assert kept.get(f"/documents/{ID}").status_code == 200
    kept.delete(f"/documents/{ID}")
    receipt = erase(kept)
    assert not receipt["document"]


@pytest.mark.slow
def test_generations_from_before_are_replaced(kept: TestClient) -> None:
    footnote = state(kept)
    folder = footnote.settings.store_dir
    for _ in range(2):
        job = kept.post("/admin/reindex", json={}).json()
        assert finished(kept, job["id"])["state"] == "succeeded"
    assert len(files_with(folder, "Winterbottom")) > 1
    receipt = erase(kept)
    assert receipt["generations"] == [2, 1]
    assert finished(kept, receipt["reindex_job"])["state"] == "succeeded"
    assert [g.number for g in footnote.open_index().generations()] == [3]
    assert files_with(folder, "Winterbottom") == []


def finished(client: TestClient, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        job: dict[str, Any] = client.get(f"/admin/jobs/{job_id}").json()
        if job["state"] not in ("queued", "running"):
            return job
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_checkpoints_that_were_trained_on_it_are_named(kept: TestClient) -> None:
    folder = state(kept).settings.checkpoint_dir
    for version, known in (("with", [ID, "x"]), ("without", ["x"]), ("silent", None)):
        head = folder / version / "heads" / "label"
        head.mkdir(parents=True)
        (folder / version / "manifest.json").write_text("{}")
        if known is not None:
            (head / DOCUMENTS).write_bytes(digests(known))
    assert trained_on(folder / "without", ID) is False
    receipt = erase(kept)
    assert receipt["checkpoints"] == ["with"]
    assert receipt["checkpoints_unknown"] == ["silent", "shipped"]


def test_frozen_rows_of_unfinished_jobs_go(kept: TestClient) -> None:
    folder = state(kept).settings.store_dir / "jobs"
    for job, doc_id in (("job_a", ID), ("job_b", "other")):
        (folder / job).mkdir(parents=True)
        (folder / job / "passages.jsonl").write_text(
            f'{{"doc_id": "{doc_id}"}}'.replace('"quoted"', '\\"quoted\\"')
        )
    assert erase(kept)["training_sets"] == ["job_a"]
    assert (folder / "job_b").is_dir()


def test_an_answer_under_way_keeps_nothing_of_it() -> None:
    predictions = Predictions()
    predictions.erase("a", "secret", sequence=7)
    citation: dict[str, Any] = {
        "doc_id": "a",
        "text": "secret",
        "title": None,
        "label": "x",
        "metadata": {},
    }
    body = b'{"data": [{"citations": [%s]}]}'
    raw = body % orjson.dumps(citation)
    for version, erased in ((6, True), (8, False)):
        hit = ["a", version, 0, 6, 1.0, {}, True]
        record = {"inputs": [{"hits": [hit]}, None]}
        said = [Output("a question", "x", 0.5)]
        predictions.keep("p", field="label", outputs=said, body=raw, record=record)
        told = predictions.get("p").answer()["data"][0]["citations"][0]
        assert told.get("erased", False) is erased
        assert (told["text"] == "") is erased
