from __future__ import annotations

import json
from typing import Any

from starlette.testclient import TestClient

from app.schemas.documents import FeedbackResponse, UndoResponse
from tests.app.conftest import state

TEXT = "Where is my parcel, and who pays for it"


def label(client: TestClient, text: str = TEXT) -> Any:
    return client.post("/classify", json={"input": text}).json()["data"][0]["label"]


def give(client: TestClient, status: int = 201, **body: Any) -> FeedbackResponse:
    answer = client.post("/feedback", json=body)
    assert answer.status_code == status, answer.text
    return FeedbackResponse.model_validate(answer.json())


def test_a_correction_counts_from_the_next_request_and_can_be_undone(client: TestClient) -> None:
    prediction = client.post("/classify", json={"input": TEXT}).json()
    before = prediction["data"][0]["label"]
    assert before != "praise"
    given = give(
        client, prediction_id=prediction["id"], correct=False, label="praise", apply="index"
    )
    assert given.before is not None
    assert given.after is not None
    assert (given.before.label, given.after.label) == (before, "praise")
    assert "label" in given.changed
    assert label(client) == "praise"
    assert label(client, TEXT.upper() + "  ") == "praise"
    item = client.post("/classify", json={"input": TEXT}).json()["data"][0]
    assert item["citations"][0]["doc_id"] == given.doc_id
    assert item["confidence"] > 0.9
    undone = UndoResponse.model_validate(client.delete(f"/feedback/{given.id}").json())
    assert undone.doc_id == given.doc_id
    assert label(client) == before
    assert client.delete(f"/feedback/{given.id}").status_code == 404


def test_without_a_prediction_and_only_recorded(client: TestClient) -> None:
    before = label(client)
    given = give(client, input=TEXT, label="praise")
    assert given.doc_id is None
    assert label(client) == before
    lines = client.get("/feedback?format=jsonl").text.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["praise"]


def test_a_preview_writes_nothing(client: TestClient) -> None:
    before = label(client)
    given = give(client, 200, input=TEXT, label="praise", apply="index", preview=True)
    assert given.id is None
    assert given.after is not None
    assert given.after.label == "praise"
    assert label(client) == before
    assert client.get("/feedback").text == ""


def test_of_two_corrections_one_may_be_taken_back(client: TestClient) -> None:
    first = give(client, input=TEXT, label="praise", apply="index")
    second = give(client, input=TEXT, label="returns", apply="index")
    assert first.doc_id == second.doc_id
    assert first.conflicts == []
    assert [(c.id, c.label) for c in second.conflicts] == [(first.id, "praise")]
    shown = give(client, 200, input=TEXT, label="billing", apply="index", preview=True)
    assert [c.label for c in shown.conflicts] == ["returns", "praise"]
    assert give(client, input=TEXT, label="billing").conflicts == []  # only recorded
    assert label(client) == "returns"
    client.delete(f"/feedback/{second.id}")
    assert label(client) == "praise"


def test_the_same_feedback_again_is_the_same(client: TestClient) -> None:
    one = give(client, input=TEXT, label="praise", apply="index")
    again = give(client, input=TEXT, label="praise", apply="index")
    assert one.id == again.id
    assert len(client.get("/feedback").text.splitlines()) == 1


def test_a_new_label_needs_no_training(client: TestClient) -> None:
    give(client, input="Do you repair drones", label="repairs", apply="index")
    assert label(client, "do you repair drones") == "repairs"


def test_unknown_predictions_are_not_found(client: TestClient) -> None:
    answer = client.post("/feedback", json={"prediction_id": "pred_x", "label": "a"})
    assert answer.status_code == 404


def test_a_prediction_that_expired_is_not_found(client: TestClient) -> None:
    old = client.post("/classify", json={"input": TEXT}).json()["id"]
    state(client).predictions._limit = 1
    new = client.post("/classify", json={"input": TEXT}).json()["id"]
    feedback_item = {"correct": False, "label": "praise"}
    answer = client.post("/feedback", json={"prediction_id": old, **feedback_item})
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/not-found"
    assert client.post("/feedback", json={"prediction_id": new, **feedback_item}).status_code == 201


def test_a_label_of_another_field_is_refused(client: TestClient) -> None:
    name = client.post("/classify", json={"input": TEXT}).json()["id"]
    body = {"prediction_id": name, "correct": False, "label": "negative", "field": "sentiment"}
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 422
    assert [e["pointer"] for e in answer.json()["errors"]] == ["#/field"]
    assert client.get("/feedback").text == ""


def test_a_label_that_the_field_never_had_is_told(client: TestClient) -> None:
    known = {"input": TEXT, "label": "praise", "apply": "index"}
    assert client.post("/feedback", json={**known, "preview": True}).json()["warnings"] == []
    new = {"input": TEXT, "label": "fireworks", "apply": "index"}
    (warning,) = client.post("/feedback", json={**new, "preview": True}).json()["warnings"]
    assert warning == "this label is new to the field 'label'"
    assert client.post("/feedback", json=new).json()["warnings"] == [warning]
    # From then on a document has it.
    assert client.post("/feedback", json=new).json()["warnings"] == []
