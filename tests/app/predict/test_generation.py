"""Texts over HTTP from a real (tiny, random) generator: retrieval, streams, support, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.cli import doctor
from app.schemas.prediction import PredictResponse
from tests.app.conftest import serving, state

PARCEL = "Where is my parcel, it is late"


def predict(client: TestClient, given: object, **more: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"task": "generation", "input": given, **more})
    assert answer.status_code == 200, answer.text
    PredictResponse.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def events(client: TestClient, body: dict[str, Any]) -> list[tuple[str, Any]]:
    found = []
    with client.stream("POST", "/predict", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                found.append((name, json.loads(line[5:])))
    return found


def test_a_text_is_written_from_the_documents(writing: TestClient) -> None:
    body = predict(writing, PARCEL, params={"max_new_tokens": 12})
    item = body["data"][0]
    assert item["output"]["text"]
    assert item["output"]["finish_reason"] in ("length", "stop")
    assert item["confidence"] is None
    assert item["citations"][0]["doc_id"] == "delivery-0"
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] > len(PARCEL) // 8
    assert body["usage"]["used"] >= 1
    assert body["model"]["generator"]["name"]
    assert len(body["model"]["generator"]["sha256"]) == 64
    assert writing.get(f"/predictions/{body['id']}").json()["data"] == body["data"]


def test_greedy_is_the_same_again_and_the_documents_move_it(writing: TestClient) -> None:
    first, again = (predict(writing, PARCEL, params={"max_new_tokens": 12}) for _ in range(2))
    assert first["data"][0]["output"] == again["data"][0]["output"]
    closed = predict(writing, PARCEL, params={"max_new_tokens": 12}, retrieval={"mode": "off"})[
        "data"
    ][0]
    assert closed["citations"] == []
    assert closed["output"]["text"] != first["data"][0]["output"]["text"]
    assert all(not s["supported"] for s in closed["output"]["sentences"])


def test_a_seed_is_the_same_text_and_another_is_another(writing: TestClient) -> None:
    def text(seed: int) -> str:
        params = {"max_new_tokens": 16, "temperature": 1.0, "top_p": 0.9, "seed": seed}
        found: str = predict(writing, PARCEL, params=params)["data"][0]["output"]["text"]
        return found

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_stop_string_ends_the_text_before_it(writing: TestClient) -> None:
    whole = predict(writing, PARCEL, params={"max_new_tokens": 24})["data"][0]["output"]["text"]
    middle = len(whole) // 2
    stop = whole[middle : middle + 3]
    params = {"max_new_tokens": 24, "stop": ["never said", stop]}
    output = predict(writing, PARCEL, params=params)["data"][0]["output"]
    assert output["text"] == whole[: whole.index(stop)]
    assert output["finish_reason"] == "stop"
    never = predict(writing, PARCEL, params={"max_new_tokens": 24, "stop": ["zq7 never"]})
    assert never["data"][0]["output"] == {
        **never["data"][0]["output"],
        "text": whole,
        "finish_reason": "length",
    }


def test_a_stream_is_the_answer_in_parts(writing: TestClient) -> None:
    body = {"task": "generation", "input": PARCEL, "params": {"max_new_tokens": 16}}
    found = events(writing, body)
    names = [name for name, _ in found]
    assert names[0] == "retrieval"
    assert names[-2:] == ["prediction", "done"]
    assert set(names[1:-2]) == {"token"}
    prediction = found[-2][1]
    PredictResponse.model_validate(prediction)
    text = "".join(data["text"] for name, data in found if name == "token")
    assert text == prediction["data"][0]["output"]["text"]
    cited = [c["doc_id"] for c in found[0][1]["citations"]]
    assert cited == [c["doc_id"] for c in prediction["data"][0]["citations"]]
    assert text == predict(writing, PARCEL, params=body["params"])["data"][0]["output"]["text"]


def test_with_a_threshold_nothing_is_said_before_it_is_known(writing: TestClient) -> None:
    body = {"task": "generation", "input": PARCEL, "abstain": {"min_support": 1.0}}
    found = events(writing, {**body, "params": {"max_new_tokens": 8}})
    assert [name for name, _ in found] == ["retrieval", "prediction", "done"]
    item = found[1][1]["data"][0]
    assert (item["abstained"], item["abstain_reason"]) == (True, "low_support")
    assert item["output"]["text"] == ""


def test_the_influence_of_a_document_is_the_change_of_the_log_probability(
    writing: TestClient,
) -> None:
    params = {"max_new_tokens": 10}
    retrieval = {"k": 3}
    item = predict(writing, PARCEL, params=params, retrieval=retrieval, explain=["influence"])[
        "data"
    ][0]
    first = item["citations"][0]
    assert {"delta", "flips"} <= first["influence"].keys()
    # Told to flip: without the document a greedy text is another one; and the other way round.
    for cited in item["citations"]:
        without = predict(
            writing,
            PARCEL,
            params=params,
            retrieval={
                "mode": "provided",
                "documents": [
                    {"id": c["doc_id"], "text": c["text"]}
                    for c in item["citations"]
                    if c is not cited
                ],
                "k": 2,
            },
        )["data"][0]
        same_order = [c["doc_id"] for c in without["citations"]] == [
            c["doc_id"] for c in item["citations"] if c is not cited
        ]
        if same_order:
            changed = without["output"]["text"] != item["output"]["text"]
            assert cited["influence"]["flips"] == changed


def test_a_list_is_answered_item_by_item(writing: TestClient) -> None:
    long = "parcel " * 3_000
    data = predict(writing, [PARCEL, "", long, PARCEL], params={"max_new_tokens": 6})["data"]
    assert ["error" in item for item in data] == [False, True, True, False]
    assert data[0]["output"] == data[3]["output"]
    detail = data[2]["error"]["errors"][0]["detail"]
    assert "context is 512" in detail
    assert "6 are to be written" in detail


def test_documents_are_left_out_by_score_where_the_context_is_full(writing: TestClient) -> None:
    documents = [{"id": f"d{i}", "text": f"the parcel {i} is late. " * 40} for i in range(3)]
    retrieval = {"mode": "provided", "documents": documents, "k": 20}
    body = predict(writing, PARCEL, params={"max_new_tokens": 8}, retrieval=retrieval)
    assert body["usage"]["used"] < body["usage"]["retrieved"]
    assert body["usage"]["prompt_tokens"] + 8 <= 512
    assert any("did not fit" in note for note in body["warnings"])


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"params": {"max_new_tokens": 0}}, "#/params/max_new_tokens"),
        ({"params": {"temperature": -1}}, "#/params/temperature"),
        ({"params": {"top_p": 2}}, "#/params/top_p"),
        ({"params": {"stop": [""]}}, "#/params/stop/0"),
        ({"params": {"seed": 2**70}}, "#/params/seed"),
        ({"params": {"labels": ["a"]}}, "#/params/labels"),
        ({"field": "label"}, "#/field"),
        ({"input": {"messages": []}}, "#/input"),
        ({"input": ["a", "b"], "stream": True}, "#/input"),
        ({"input": "parcel " * 3_000}, "#/input"),
        ({"params": {"max_new_tokens": 4_000}}, "#/input"),
        ({"retrieval": {"mode": "provided"}}, "#/retrieval/documents"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_name_the_place(
    writing: TestClient, more: dict[str, Any], pointer: str, stream: bool
) -> None:
    body = {"task": "generation", "input": PARCEL, "stream": stream, **more}
    answer = writing.post("/predict", json=body)
    assert answer.status_code == 422, answer.text
    assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]


def test_without_a_generator_the_answer_says_what_to_set(filled: TestClient) -> None:
    answer = filled.post("/predict", json={"task": "generation", "input": "a"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/capability-missing"
    assert "FOOTNOTE_GENERATOR" in answer.json()["detail"]
    assert "dialogue" in answer.json()["detail"]


@pytest.mark.parametrize("task", ["generation", "dialogue"])
def test_a_text_is_written_again_from_the_same_passages(writing: TestClient, task: str) -> None:
    for more in ({}, {"retrieval": {"mode": "off"}}):
        asked = {"task": task, "input": PARCEL, "params": {"max_new_tokens": 8}, **more}
        before = writing.post("/predict", json=asked).json()
        again = writing.post(f"/predictions/{before['id']}/replay")
        assert again.status_code == 200, again.text
        assert again.json()["replay"] == {"equal": True, "difference": 0.0}
        assert again.json()["data"] == before["data"]
    feedback = {"prediction_id": before["id"], "correct": False, "label": "delivery"}
    refused = writing.post("/feedback", json=feedback)
    assert refused.json()["errors"][0]["pointer"] == "#/label"


def test_an_erased_document_goes_from_what_was_written_of_it(
    client: TestClient,
) -> None:
    asked = {"task": "dialogue", "input": "my parcel, where is it now"}
    said = client.post("/predict", json=asked).json()
    assert PARCEL in said["data"][0]["output"]["message"]["content"]
    assert client.delete("/documents/delivery-0?erase=true").status_code == 200
    kept = client.get(f"/predictions/{said['id']}")
    assert kept.json()["data"][0]["output"]["message"]["content"] == ""
    assert PARCEL not in kept.text


def test_a_generator_that_is_refused_is_told_and_the_rest_serves(
    tmp_path: Path, settings_for: Any
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    settings = settings_for(tmp_path, generator=str(folder))
    with serving(settings) as client:
        ready = client.get("/health/ready").json()
        assert "pytorch_model.bin" in str(ready["degraded"])
        answer = client.post("/predict", json={"task": "generation", "input": "a"})
        assert answer.status_code == 422
        assert "pytorch_model.bin" in answer.json()["detail"]
        assert client.post("/predict", json={"task": "dialogue", "input": "a"}).is_success
    (finding,) = doctor.generator(settings)
    assert (finding.state, "pytorch_model.bin" in finding.detail) == ("problem", True)


def test_the_doctor_looks_at_a_generator(settings_for: Any, generator_folder: Path) -> None:
    settings = settings_for(generator_folder, generator=str(generator_folder))
    (finding,) = doctor.generator(settings)
    assert (finding.state, finding.about) == ("ok", "generator")
    assert list(doctor.generator(settings_for(generator_folder))) == []
    (finding,) = doctor.generator(settings.model_copy(update={"generator": "org/name"}))
    assert finding.state == "warning"


def test_permits_are_given_back(writing: TestClient) -> None:
    assert state(writing).permits.taken == 0
    generator = state(writing).snapshot().generator
    assert generator is not None
    assert generator.active() == 0
