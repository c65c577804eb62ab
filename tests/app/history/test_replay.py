"""The same answer again from the same model and documents, or a clear word about what is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient

from app.history.records import compared
from tests.app.conftest import corpus, serving, state

CHARGED = "I was charged twice for one order"
LATE = "Where is my parcel, it is late and wet"


def ask(client: TestClient, path: str = "/classify", **body: Any) -> dict[str, Any]:
    answer = client.post(path, json={"input": LATE, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def again(client: TestClient, given: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/predictions/{given['id']}/replay")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["replay"]["equal"]
    assert found["replay"]["difference"] <= 1e-5
    for old, new in zip(given["data"], found["data"], strict=True):
        cited = [c["doc_id"] for c in old["citations"]]
        assert [c["doc_id"] for c in new["citations"]] == cited
        assert [c["text"] for c in new["citations"]] == [c["text"] for c in old["citations"]]
        assert new["confidence"] == pytest.approx(old["confidence"], abs=1e-5)
    same = ("id", "created", "index", "index_info", "model", "model_info")
    assert {k: given.get(k) for k in same} == {k: found.get(k) for k in same}
    return found


def gone(client: TestClient, given: dict[str, Any]) -> list[str]:
    answer = client.post(f"/predictions/{given['id']}/replay")
    assert answer.status_code == 409, answer.text
    assert answer.json()["type"] == "/problems/pin-unavailable"
    found: list[str] = answer.json()["gone"]
    return found


def change(client: TestClient, text: str) -> None:
    """Another version of a document that is found for both texts."""
    body = {"text": text, "label": "praise"}
    assert client.put("/documents/delivery-0", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"explain": ["influence", "ablation"]}),
        ("/classify", {"labels": ["delivery", "praise"], "retrieval": {"method": "bm25", "k": 3}}),
        ("/predict", {"task": "sentiment", "abstain": {"min_confidence": 0.99}}),
        ("/predict", {"task": "classification", "retrieval": {"mode": "off"}}),
        (
            "/predict",
            {
                "task": "classification",
                "retrieval": {
                    "mode": "provided",
                    "documents": [{"id": "a", "text": "a parcel", "label": "x"}],
                },
            },
        ),
    ],
)
def test_the_same_again_after_writes(client: TestClient, path: str, body: dict[str, Any]) -> None:
    explained = {"explain": ["citations"], **body}
    given = ask(client, path, **explained)
    change(client, "something else")
    client.delete("/documents/billing-1")
    client.post("/documents", json={"text": LATE, "label": "returns"})
    if body.get("retrieval", {}).get("mode", "index") == "index":
        assert ask(client, path, **explained)["data"] != given["data"]
    found = again(client, given)
    for old, new in zip(given["data"], found["data"], strict=True):
        influences = [[c.get("influence") for c in item["citations"]] for item in (old, new)]
        for before, after in zip(*influences, strict=True):
            if before is not None:
                assert after["delta"] == pytest.approx(before["delta"], abs=1e-5)


def test_a_list_with_a_bad_input(client: TestClient) -> None:
    given = client.post("/classify", json={"input": [LATE, "", CHARGED]}).json()
    given["data"][1]["citations"] = []
    answer = client.post(f"/predictions/{given['id']}/replay").json()
    assert answer["replay"]["equal"]
    assert answer["data"][1]["error"]["status"] == 422


def test_a_state_that_is_not_kept_is_told(tmp_path: Path, settings_for: Any) -> None:
    with serving(settings_for(tmp_path, keep_snapshots=2)) as client:
        client.post("/documents", json={"documents": corpus()})
        given = ask(client)
        change(client, "a first change")
        ask(client)
        again(client, given)
        change(client, "a second change")
        ask(client)
        assert gone(client, given) == ["index"]


def test_a_model_that_no_longer_serves_is_loaded_beside(
    client: TestClient, checkpoint: Path
) -> None:
    footnote = state(client)
    folder = footnote.settings.checkpoint_dir / "v1"
    shutil.copytree(checkpoint, folder)
    footnote.activation.activate("v1")
    text = "tell apple about hammer"
    given = ask(client, "/predict", task="classification", input=text, params={"top_n": 10})
    assert given["model"]["version"] == "v1"
    assert {s["label"] for s in given["data"][0]["output"]["scores"]} >= {"fruit", "tool"}
    footnote.activation.activate("none")
    again(client, given)
    pin = {"model_sha256": given["model"]["sha256"]}
    pinned = ask(
        client, "/predict", task="classification", input=text, pin=pin, params={"top_n": 10}
    )
    assert pinned["data"] == given["data"]
    footnote.pins.close()
    shutil.rmtree(folder)
    assert gone(client, given) == ["model"]


def test_a_model_of_another_digest_is_gone(client: TestClient) -> None:
    given = ask(client)
    footnote = state(client)
    kept = footnote.predictions._retained[given["id"]]
    record = kept.record()
    record["model"]["sha256"] = "0" * 64
    footnote.predictions.keep(
        given["id"],
        field="label",
        outputs=kept.outputs,
        body=orjson.dumps(kept.answer()),
        record=record,
    )
    assert gone(client, given) == ["model"]


def test_pins_answer_from_a_kept_state(client: TestClient) -> None:
    given = ask(client, "/predict", task="classification")
    pin = {
        "index_sequence": given["index"]["sequence"],
        "model_sha256": given["model"]["sha256"],
    }
    change(client, LATE)
    now = ask(client, "/predict", task="classification")
    assert now["index"]["sequence"] > given["index"]["sequence"]
    pinned = ask(client, "/predict", task="classification", pin=pin)
    assert pinned["index"] == given["index"]
    assert pinned["data"] == given["data"]
    again(client, pinned)
    for wrong, what in (({"index_sequence": 1}, "index"), ({"model_sha256": "0" * 64}, "model")):
        body = {"task": "classification", "input": LATE, "pin": wrong}
        answer = client.post("/predict", json=body)
        assert (answer.status_code, answer.json()["gone"]) == (409, [what])


def test_stored_predictions_outlive_a_restart(tmp_path: Path, settings_for: Any) -> None:
    settings = settings_for(tmp_path, store_predictions=True)
    with serving(settings) as client:
        for document in corpus():  # one at a time: the index is cut otherwise after the restart
            client.post("/documents", json=document)
        given = ask(client)
    with serving(settings) as client:
        assert client.get(f"/predictions/{given['id']}").json() == given
        again(client, given)
        right = {"prediction_id": given["id"], "correct": True}
        assert client.post("/feedback", json=right).status_code == 201
        change(client, "another version")
        assert gone(client, given) == ["index"]
    with serving(settings_for(tmp_path)) as client:
        assert client.get(f"/predictions/{given['id']}").status_code == 404


def test_a_difference_is_told() -> None:
    def body(label: str, score: float) -> dict[str, Any]:
        output = {"label": label, "scores": [{"label": label, "score": score}]}
        return {"data": [{"index": 0, "output": output, "confidence": score}]}

    assert compared(body("a", 0.5), body("a", 0.5 + 2e-6))["equal"]
    assert compared(body("a", 0.5), body("a", 0.52)) == {
        "equal": False,
        "difference": pytest.approx(0.02),
    }
    assert not compared(body("a", 0.5), body("b", 0.5))["equal"]
