"""What a correction is said to change is what it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.history.recent_vectors import Place, RecentVectors
from app.manage.correction_impact import MOVED
from app.schemas.documents import FeedbackResponse, Impact
from tests.app.conftest import corpus, serving, state

TEXT = "Where is my parcel, and who pays for it"
ASKED = [
    TEXT,
    "Where is my parcel and who pays",
    "where is my parcel, it is late, who pays for it",
    "I was charged twice for one order",
    "Wonderful service, friendly staff",
    "How do I return a broken kettle",
    "nothing like any of the others at all",
]
CORRECTION = {"input": TEXT, "label": "praise", "apply": "index"}


def ask(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post("/classify", json={"input": ASKED, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def give(client: TestClient, **body: Any) -> tuple[FeedbackResponse, Impact]:
    answer = client.post("/feedback", json=body)
    assert answer.is_success, answer.text
    given = FeedbackResponse.model_validate(answer.json())
    assert given.impact is not None
    return given, given.impact


@pytest.mark.parametrize("method", ["hybrid", "bm25"])
def test_what_is_foretold_is_what_happens(client: TestClient, method: str) -> None:
    retrieval = {"retrieval": {"method": method, "k": 4}}
    before = ask(client, **retrieval)
    ask(client, retrieval={"mode": "off"})
    ask(client, field="sentiment")
    sequence = state(client).store.sequence
    previewed, foretold = give(client, **CORRECTION, preview=True)
    assert state(client).store.sequence == sequence
    assert client.get("/feedback").text == ""
    again = ask(client, **retrieval)["data"]  # is kept too: now there are two of each
    for was, now in zip(before["data"], again, strict=True):
        assert was["label"] == now["label"]
        assert was["confidence"] == pytest.approx(now["confidence"], abs=1e-5)
    given, told = give(client, **CORRECTION, impact=True)
    assert (told.checked, told.of) == (2 * len(ASKED), 2 * len(ASKED))
    assert foretold.checked == foretold.of == len(ASKED)
    assert given.after is not None
    assert given.after == previewed.after
    after = ask(client, **retrieval)
    expected = {
        i: (was, now)
        for i, (was, now) in enumerate(zip(before["data"], after["data"], strict=True))
        if was["label"] != now["label"] or abs(was["confidence"] - now["confidence"]) >= MOVED
    }
    assert 0 in expected
    assert len(expected) < len(ASKED)
    for impact, times in ((foretold, 1), (told, 2)):
        first = [one for one in impact.changed if one.prediction_id == before["id"]]
        assert {one.index for one in first} == set(expected)
        assert len(impact.changed) == times * len(expected)
        for one in first:
            was, now = expected[one.index]
            assert (one.before.label, one.after.label) == (was["label"], now["label"])
            assert one.before.confidence == pytest.approx(was["confidence"], abs=1e-5)
            assert one.after.confidence == pytest.approx(now["confidence"], abs=1e-5)
        relabelled = [one.before.label != one.after.label for one in impact.changed]
        assert relabelled == sorted(relabelled, reverse=True)


def test_only_what_is_asked_for_is_worked_out(client: TestClient) -> None:
    ask(client)
    plain = client.post("/feedback", json=CORRECTION).json()
    assert plain["impact"] is None
    without = client.post("/feedback", json={**CORRECTION, "preview": True, "impact": False}).json()
    assert without["impact"] is None
    assert without["after"]["label"] == "praise"
    _, again = give(client, **CORRECTION, impact=True)
    assert again.changed == []  # it stands already
    refused = client.post("/feedback", json={**CORRECTION, "apply": "record", "impact": True})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/impact"


def test_the_nearest_are_checked_and_the_erased_are_not(tmp_path: Path, settings_for: Any) -> None:
    with serving(settings_for(tmp_path, impact_checked=2)) as client:
        client.post("/documents", json={"documents": corpus()})
        ask(client)
        ask(client)
        _, impact = give(client, **CORRECTION, preview=True)
        assert (impact.checked, impact.of) == (4, 2 * len(ASKED))  # two texts, each asked twice
        assert 0 in {one.index for one in impact.changed}
        made = client.post("/feedback", json=CORRECTION).json()
        erased = client.delete(f"/documents/{made['doc_id']}?erase=true")
        assert erased.json()["receipt"]["predictions"]["memory"] == 2
        _, impact = give(client, **CORRECTION, preview=True)
        assert (impact.checked, impact.of) == (0, 0)  # the predictions had that text among others


def test_vectors_are_bounded_and_of_one_encoder() -> None:
    recent = RecentVectors(3)
    axes = np.eye(4, dtype=np.float32)
    for i in range(4):
        recent.add(Place(f"p{i}", 0, "label"), axes[i], "a")
    recent.add(Place("other", 0, "topic"), axes[0], "a")
    query = (axes[3] + 0.5 * axes[2])[None]
    assert [p.prediction_id for p in recent.nearest(query, "label", "a")] == ["p3", "p2"]
    assert recent.nearest(query, "label", "b") == []
    recent.forget({"p3"})
    assert [p.prediction_id for p in recent.nearest(query, "label", "a")] == ["p2"]
    recent.add(Place("new", 1, "label"), np.ones(2, np.float32), "b")
    assert recent.nearest(query, "label", "a") == []
    assert recent.nearest(np.ones((1, 2), np.float32), "label", "b") == [Place("new", 1, "label")]


SENTENCE = "Ship it to Ana in Lisbon"
ANA = {"start": 11, "end": 14, "type": "person"}
LISBON = {"start": 18, "end": 24, "type": "place"}


def test_entities_become_a_document_and_training_data(client: TestClient) -> None:
    body = {"input": SENTENCE, "entities": [LISBON, ANA], "apply": "index"}
    given = client.post("/feedback", json=body)
    assert given.status_code == 201, given.text
    first = given.json()
    marked = [{**ANA, "text": "Ana"}, {**LISBON, "text": "Lisbon"}]
    path = f"/documents/{first['doc_id']}"
    assert client.get(path).json()["metadata"] == {"source": "feedback", "entities": marked}
    (line,) = (json.loads(one) for one in client.get("/feedback?format=jsonl").text.splitlines())
    assert (line["entities"], line["field"], line["label"]) == (marked, "ner", None)
    spaced = {"input": f"  {SENTENCE.upper()}", "label": "delivery", "apply": "index"}
    second = client.post("/feedback", json=spaced).json()
    assert second["conflicts"] == []
    document = client.get(path).json()
    assert document["text"] == SENTENCE  # the text that the offsets count in
    assert (document["labels"], document["metadata"]["entities"]) == ({"label": "delivery"}, marked)
    third = client.post("/feedback", json={**body, "entities": []}).json()
    assert [one["id"] for one in third["conflicts"]] == [first["id"]]
    assert client.get(path).json()["metadata"]["entities"] == []
    for one in (first, second, third):
        assert client.delete(f"/feedback/{one['id']}").status_code == 200
    assert client.get(path).status_code == 404
    again = client.delete(f"/feedback/{first['id']}")
    assert again.status_code == 404
    assert "taken back" in again.json()["detail"]


def test_answers_are_kept_with_where_they_stand(client: TestClient) -> None:
    document = {"id": "terms", "text": "Orders may go back within 30 days."}
    client.post("/documents", json=document)
    prediction = client.post("/classify", json={"input": TEXT}).json()
    answer = {"text": "within 30 days", "doc_id": "terms", "start": 19, "end": 33}
    body = {"prediction_id": prediction["id"], "answer": answer}
    given = client.post("/feedback", json=body)
    assert given.status_code == 201, given.text
    assert client.post("/feedback", json=body).json()["id"] == given.json()["id"]
    client.post("/feedback", json={"input": TEXT, "answer": {"text": ""}})
    lines = [json.loads(one) for one in client.get("/feedback").text.splitlines()]
    assert [one["answer"]["text"] for one in lines] == ["within 30 days", ""]
    assert (lines[0]["answer"], lines[0]["text"]) == (answer, TEXT)
    assert client.delete("/documents/terms?erase=true").json()["receipt"]["feedback"] == 1


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"entities": [{**LISBON, "end": 25}]}, "#/entities/0/end"),
        ({"entities": [{**ANA, "end": 11}]}, "#/entities/0/end"),
        ({"entities": [LISBON, {**ANA, "end": 19}]}, "#/entities/0/start"),
        ({"entities": [{**ANA, "type": "a\nb"}]}, "#/entities/0/type"),
        ({"entities": [{**ANA, "start": -1}]}, "#/entities/0/start"),
        ({"entities": [ANA], "impact": True, "apply": "index"}, "#/impact"),
        ({"answer": {"text": "Ana", "start": 11}}, "#/answer/end"),
        ({"answer": {"text": "Ann", "start": 11, "end": 14}}, "#/answer/text"),
        ({"answer": {"text": "Ana", "start": 14, "end": 11}}, "#/answer/end"),
        ({"answer": {"text": "Ana", "start": 11, "end": 99}}, "#/answer/end"),
        ({"answer": {"text": "Ana", "doc_id": "nowhere"}}, "#/answer/doc_id"),
        ({"answer": {"text": "Ana"}, "apply": "index"}, "#/label"),
        ({}, "#/label"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(
    filled: TestClient, said: dict[str, Any], pointer: str
) -> None:
    answer = filled.post("/feedback", json={"input": SENTENCE, **said})
    assert answer.status_code == 422, answer.text
    assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]
