from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.schemas.prediction import ClassifyResponse, LabelOutput, PredictResponse
from tests.app.conftest import corpus, serving, state

CHARGED = "I was charged twice for one order"


def classify(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/classify", json={"input": CHARGED, **body})
    assert answer.status_code == 200, answer.text
    ClassifyResponse.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    return found


def test_classify_answers_with_its_citations(filled: TestClient) -> None:
    body = ClassifyResponse.model_validate(classify(filled))
    item = body.data[0]
    assert item.label == "billing"
    assert item.citations is not None
    assert item.citations[0].doc_id == "billing-0"
    assert item.citations[0].label == "billing"
    assert item.probs is not None
    assert item.num_classes == len(item.probs) == 4
    assert abs(sum(item.probs) - 1) < 1e-5
    assert body.usage.prompt_tokens > 0


def test_predict_sentiment_uses_its_field(filled: TestClient) -> None:
    answer = filled.post(
        "/predict", json={"task": "sentiment", "input": "Fast delivery, thank you!"}
    )
    assert answer.status_code == 200, answer.text
    body = PredictResponse.model_validate(answer.json())
    assert isinstance(body.data[0].output, LabelOutput)
    assert body.data[0].output.label == "positive"


def test_a_list_is_one_batch_and_a_bad_item_is_told_in_its_place(filled: TestClient) -> None:
    body = classify(filled, input=[CHARGED, "", "Where is my parcel", 7])
    assert [item["index"] for item in body["data"]] == [0, 1, 2, 3]
    assert body["data"][0]["label"] == "billing"
    assert body["data"][2]["label"] == "delivery"
    for place in (1, 3):
        error = body["data"][place]["error"]
        assert error["type"] == "/problems/validation"
        assert error["errors"][0]["pointer"] == f"#/input/{place}"


@pytest.mark.parametrize("method", ["bm25", "dense", "hybrid"])
def test_methods_and_k(filled: TestClient, method: str) -> None:
    body = classify(filled, retrieval={"method": method, "k": 3})
    citations = body["data"][0]["citations"]
    assert [c["rank"] for c in citations] == list(range(1, len(citations) + 1))
    assert len(citations) <= 3


def test_closed_book_without_a_head_abstains(filled: TestClient) -> None:
    item = classify(filled, retrieval={"mode": "off"})["data"][0]
    assert (item["label"], item["scores"], item["abstained"]) == (None, [], True)


def test_provided_documents(filled: TestClient) -> None:
    documents = [
        {"id": "a", "text": CHARGED, "label": "money"},
        {"id": "b", "text": "A walk in the park", "label": "leisure"},
    ]
    body = classify(filled, retrieval={"mode": "provided", "documents": documents})
    item = body["data"][0]
    assert item["label"] == "money"
    assert {s["label"] for s in item["scores"]} == {"money", "leisure"}
    assert item["citations"][0]["doc_id"] == "a"


def test_filter_exclusion_and_labels(filled: TestClient) -> None:
    body = classify(filled, retrieval={"filter": {"label": ["delivery", "returns"]}})
    assert {c["label"] for c in body["data"][0]["citations"]} <= {"delivery", "returns"}
    body = classify(filled, retrieval={"exclude_ids": ["billing-0"]})
    assert all(c["doc_id"] != "billing-0" for c in body["data"][0]["citations"])
    item = classify(filled, labels=["delivery", "returns"])["data"][0]
    assert {s["label"] for s in item["scores"]} == {"delivery", "returns"}
    assert abs(sum(item["probs"]) - 1) < 1e-6


def test_abstention_withholds_the_label(filled: TestClient) -> None:
    item = classify(filled, input="Where is it", abstain={"min_support": 1.0})["data"][0]
    assert item["abstained"]
    assert item["label"] is None
    assert item["scores"]


@pytest.mark.parametrize(
    ("body", "abstain_reason"),
    [
        ({"input": "Where is it", "abstain": {"min_support": 1.0}}, "low_support"),
        ({"input": "Where is it", "abstain": {"min_confidence": 1.0}}, "low_confidence"),
        ({"retrieval": {"mode": "off"}}, "no_evidence"),
        ({}, None),
    ],
)
def test_the_reason_for_giving_no_label(
    filled: TestClient, body: dict[str, Any], abstain_reason: str | None
) -> None:
    item = classify(filled, **body)["data"][0]
    assert (item["abstain_reason"], item["abstained"]) == (
        abstain_reason,
        abstain_reason is not None,
    )


def test_thresholds_of_the_server_unless_the_request_has_its_own(
    tmp_path: Path, settings_for: Any
) -> None:
    with serving(settings_for(tmp_path, min_support=0.999)) as client:
        client.post("/documents", json={"documents": corpus()})
        item = classify(client, input="Where is it")["data"][0]
        assert item["abstain_reason"] == "low_support"
        item = classify(client, input="Where is it", abstain={"min_support": 0})["data"][0]
        assert item["label"] is not None


def test_explained(filled: TestClient) -> None:
    body = classify(filled, explain=["influence", "ablation"], retrieval={"k": 8})
    item = body["data"][0]
    first = item["citations"][0]
    assert first["doc_id"] == "billing-0"
    # The very text, labelled by a person: without it the probability falls.
    assert first["influence"]["delta"] > 0.1
    for cited in item["citations"][1:]:
        left = classify(filled, retrieval={"k": 7, "exclude_ids": [cited["doc_id"]]})
        probs = {s["label"]: s["score"] for s in left["data"][0]["scores"]}
        expected = item["confidence"] - probs[item["label"]]
        assert cited["influence"]["delta"] == pytest.approx(expected, abs=1e-5)
    assert item["ablation"]["output"]["label"] is None
    assert item["ablation"]["changed"]
    assert "flip_set" in item
    plain = classify(filled)["data"][0]
    assert "influence" not in plain["citations"][0]
    assert "ablation" not in plain


def test_a_share_of_the_traffic_is_also_answered_closed(tmp_path: Path, settings_for: Any) -> None:
    with serving(settings_for(tmp_path, ablation_share=1.0)) as client:
        client.post("/documents", json={"documents": corpus()})
        given = classify(client, input=[CHARGED, "Where is my parcel"])
        assert "ablation" not in given["data"][0]
        classify(client, retrieval={"mode": "off"})
        told = client.get("/version").json()["retrieval_brought"]["label"]
        assert (told["answers"], told["changed"]) == (2, 1.0)
        right = {"prediction_id": given["id"], "correct": True}
        assert client.post("/feedback", json=right).status_code == 201
        told = client.get("/version").json()["retrieval_brought"]["label"]
        assert told["judged"]["on"] == 1
        text = client.get("/metrics").text
        assert 'footnote_ablation_answers_total{field="label"} 2' in text
        assert 'footnote_ablation_judged_total{field="label",right="on"} 1' in text


def test_a_kept_prediction_is_what_was_answered(filled: TestClient) -> None:
    body = classify(filled)
    assert filled.get(f"/predictions/{body['id']}").json() == body
    assert filled.get("/predictions/pred_unknown").status_code == 404


def test_pin(filled: TestClient) -> None:
    served = filled.get("/version").json()
    pin = {"model_sha256": served["model"]["sha256"], "index_sequence": served["index"]["sequence"]}
    body = {"task": "classification", "input": CHARGED, "pin": pin}
    assert filled.post("/predict", json=body).status_code == 200
    body["pin"] = {"index_sequence": 10**6}
    answer = filled.post("/predict", json=body)
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/pin-unavailable"


@pytest.mark.parametrize("task", ["qa", "generation"])
def test_a_task_it_cannot_do_names_those_it_can(filled: TestClient, task: str) -> None:
    answer = filled.post("/predict", json={"task": task, "input": CHARGED})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/capability-missing"
    assert "classification, sentiment" in answer.json()["detail"]
    assert task not in answer.json()["detail"].partition("can do: ")[2].partition(".")[0]


def test_v1_tells_errors_as_openai_does(filled: TestClient) -> None:
    assert filled.post("/v1/classify", json={"input": CHARGED}).status_code == 200
    answer = filled.post("/v1/classify", json={"input": CHARGED, "model": "other"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    answer = filled.post("/v1/classify", json={"input": CHARGED, "retrieval": {"k": 0}})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "retrieval/k"


def test_a_full_queue_refuses_before_any_work(filled: TestClient) -> None:
    permits = state(filled).permits
    with permits.take(permits.capacity):
        answer = filled.post("/classify", content=b"not even JSON")
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["type"] == "/problems/queue-full"
    assert permits.taken == 0


def test_batching_changes_no_probability(filled: TestClient) -> None:
    texts = [CHARGED, "Where is my parcel", "Thanks", "return the kettle please"] * 4
    alone = [classify(filled, input=text)["data"][0]["probs"] for text in texts[:4]]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda text: classify(filled, input=text)["data"][0]["probs"], texts)
        )
    for place, probs in enumerate(together):
        assert probs == pytest.approx(alone[place % 4], abs=1e-5)


def test_inputs_of_one_batch_may_find_different_numbers_of_documents(filled: TestClient) -> None:
    texts = [CHARGED, "Where is my parcel, it is late", "xyzzy"]
    body = classify(filled, input=texts, retrieval={"method": "bm25"})
    retrieved = [len(item["citations"]) for item in body["data"]]
    assert len(set(retrieved)) > 1
    assert body["data"][0]["label"] == "billing"


def ner(client: TestClient, text: Any, **body: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"task": "ner", "input": text, **body})
    assert answer.status_code == 200, answer.text
    PredictResponse.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    return found


SHIP = {
    "id": "ship-1",
    "text": "Please tell me about the Nautilus today",
    "metadata": {"entities": [{"start": 25, "end": 33, "type": "SHIP"}]},
}


def test_a_sentence_with_entities_counts_from_the_next_request_on(client: TestClient) -> None:
    text = "\U0001f6a2 the Nautilus and more"
    before = ner(client, text)["data"][0]
    assert (before["output"], before["abstain_reason"]) == ({"entities": []}, "no_evidence")
    posted = client.post("/documents", json={"documents": [SHIP]})
    assert posted.status_code == 200, posted.text
    at = {"min_sequence": posted.json()["sequence"]}
    item = ner(client, text, retrieval=at)["data"][0]
    (entity,) = item["output"]["entities"]
    assert (entity["text"], entity["type"]) == ("Nautilus", "SHIP")
    assert text[entity["start"] : entity["end"]] == "Nautilus"
    assert [c["doc_id"] for c in item["citations"]] == ["ship-1"]
    assert item["support"] > 0.3
    only = {"retrieval": at, "params": {"labels": ["SHIP"]}}
    assert ner(client, text, **only)["data"][0]["output"]["entities"]
    assert ner(client, text, abstain={"min_support": 1.0})["data"][0]["abstained"]
    assert ner(client, text, retrieval={"mode": "off"})["data"][0]["abstained"]


def test_entities_of_provided_documents(client: TestClient) -> None:
    documents = [{"id": "a", "text": "buy a Nautilus", "entities": [_entity(6, 14, "BRAND")]}]
    provided = {"mode": "provided", "documents": documents}
    (entity,) = ner(client, "my Nautilus", retrieval=provided)["data"][0]["output"]["entities"]
    assert (entity["type"], entity["start"], entity["end"]) == ("BRAND", 3, 11)


def _entity(start: int, end: int, kind: str) -> dict[str, Any]:
    return {"start": start, "end": end, "type": kind}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"params": {"labels": ["SHIP", "GHOST"]}}, "#/params/labels/0"),
        (
            {
                "retrieval": {
                    "mode": "provided",
                    "documents": [
                        {"id": "a", "text": "one", "entities": [_entity(0, 9, "A")]},
                    ],
                }
            },
            "#/retrieval/documents/0/entities/0",
        ),
        ({"input": ["", 3]}, "#/input/0"),
        ({"input": {"text": "a"}}, "#/input"),
    ],
)
def test_bad_requests_for_entities_are_told_where(
    client: TestClient, body: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/predict", json={"task": "ner", "input": "a text", **body})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("text", ["👍👍", "\u0301\u0301\u0301", "I- B- O", "a " * 9_000])
def test_any_text_is_searched_for_entities(client: TestClient, text: str) -> None:
    assert ner(client, text)["data"][0]["output"] == {"entities": []}


def test_what_the_encoder_cannot_read_is_found_by_its_words(filled: TestClient) -> None:
    """Of a script that the vocabulary lacks a vector says nothing; a method by name stands."""
    text = "我要退掉这台坏掉的电视机"
    found = filled.post("/search", json={"query": text}).json()
    assert found["method"] == "bm25"
    assert any("does not know" in note for note in found["degraded"])
    assert found["hits"] == []
    by_name = filled.post("/search", json={"query": text, "method": "hybrid"}).json()
    assert by_name["method"] == "hybrid"
    assert by_name["hits"]
    known = filled.post("/search", json={"query": "tell hammer about drill"}).json()
    assert known["method"] == "hybrid"
    assert classify(filled, input=text)["usage"]["retrieved"] == 0
    assert classify(filled, input=text, retrieval={"method": "dense"})["data"][0]["citations"]
