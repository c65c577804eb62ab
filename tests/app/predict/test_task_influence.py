"""Influence, replay and feedback for questions and entities."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.schemas.prediction import PredictResponse
from model.encoder.encoder import Encoder
from model.qa.evidence import PassageText, same_answer
from model.reader import Reader
from model.training.qa_calibration import ask_all
from tests.app.conftest import serving
from tests.app.tiny import WORDS
from tests.app.tiny_qa import TOOL, text

SENTENCES = [
    {"id": "ship-1", "text": "we saw the Nautilus today", "metadata": {"entities": [
        {"start": 11, "end": 19, "type": "SHIP"}]}},
    {"id": "ship-2", "text": "the Nautilus and a Beagle", "metadata": {"entities": [
        {"start": 4, "end": 12, "type": "SHIP"}, {"start": 19, "end": 25, "type": "SHIP"}]}},
    {"id": "brand-1", "text": "a Nautilus of gold", "metadata": {"entities": [
        {"start": 2, "end": 10, "type": "BRAND"}]}},
]  # fmt: skip
NER = "we saw the Nautilus and the Beagle of gold"


@pytest.fixture(scope="module")
def server(
    qa_head: Path, tmp_path_factory: pytest.TempPathFactory, settings_for: Any
) -> Iterator[TestClient]:
    with serving(settings_for(tmp_path_factory.mktemp("server")), checkpoint=qa_head) as client:
        rng = random.Random(9)
        documents: list[dict[str, Any]] = [{"id": f"d{i}", "text": text(rng)} for i in range(4)]
        documents += [
            {"id": "one", "text": "a good number of hammer and more"},
            {"id": "two", "text": "very more the bad saw of a pear"},
            *SENTENCES,
        ]
        answer = client.post("/documents", json={"documents": documents})
        assert answer.status_code == 200, answer.text
        yield client


def predict(client: TestClient, task: str, given: object, **more: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"task": task, "input": given, **more})
    assert answer.status_code == 200, answer.text
    PredictResponse.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def probs(output: dict[str, Any]) -> dict[str, float]:
    """Of each possible answer."""
    own = [output] if output["answer"] is not None else []
    return {same_answer(one["answer"]): one["score"] for one in [*own, *output["alternatives"]]}


@pytest.mark.parametrize("mode", ["index", "provided"])
def test_influence_on_an_answer_is_what_asking_without_the_passage_says(
    server: TestClient, mode: str
) -> None:
    retrieval: dict[str, Any] = {"mode": mode, "k": 5}
    if mode == "provided":
        rng = random.Random(3)
        texts = [text(rng, rng.choice(WORDS["tool"])) for _ in range(5)]
        retrieval["documents"] = [{"id": f"p{i}", "text": one} for i, one in enumerate(texts)]
    more = {"params": {"top_n": 50}, "explain": ["influence"]}
    whole = predict(server, "qa", TOOL, retrieval=retrieval, **more)["data"][0]
    before = probs(whole["output"])
    best = max(before, key=lambda name: before[name])
    moved = 0
    assert len(whole["citations"]) == 5
    for cited in whole["citations"]:
        less = {**retrieval, "k": 4, "exclude_ids": [cited["doc_id"]]}
        if mode == "index":  # what comes in its place must not count
            others = [c["doc_id"] for c in whole["citations"] if c is not cited]
            found = predict(server, "qa", TOOL, retrieval=less)["data"][0]["citations"]
            assert [c["doc_id"] for c in found] == others
        other = predict(server, "qa", TOOL, retrieval=less, **more)["data"][0]
        after = probs(other["output"])
        # Scores are rounded to six digits.
        assert cited["influence"]["delta"] == pytest.approx(
            before[best] - after.get(best, 0.0), abs=1e-5
        )
        given = [one["output"]["answer"] for one in (whole, other)]
        keys = [None if one is None else same_answer(one) for one in given]
        assert cited["influence"]["flips"] == (keys[0] != keys[1])
        moved += abs(cited["influence"]["delta"]) > 1e-4
    assert moved > 0


def test_passages_taken_out_are_as_if_they_had_never_been_read(
    qa_head: Path, encoder: Encoder
) -> None:
    spans = Reader.load(qa_head, encoder).spans("qa")
    rng = random.Random(2)
    flips = 0
    for _ in range(12):
        passages = [
            PassageText(text(rng, *rng.sample(WORDS["tool"], rng.randint(0, 2))), rank)
            for rank in range(1, rng.randint(2, 6))
        ]
        whole = ask_all(spans, [spans.ask(TOOL, passages)])[0]
        for gone in range(len(passages)):
            left = [p for i, p in enumerate(passages) if i != gone]
            ranked = [PassageText(p.text, rank) for rank, p in enumerate(left, 1)]
            alone = ask_all(spans, [spans.ask(TOOL, ranked)])[0]
            kept = spans.answer(whole.read.without(gone))
            assert kept.mass == pytest.approx(alone.mass, abs=1e-5)
            assert kept.confidence == pytest.approx(alone.confidence, abs=1e-5)
            for one in alone.spans[:10]:
                assert kept.prob_of(one.text) == pytest.approx(one.prob, abs=1e-5)
            flips += kept.answered != whole.answered
    assert flips > 0


def test_influence_on_entities_is_what_asking_without_the_sentence_says(
    server: TestClient,
) -> None:
    def entities(**more: Any) -> dict[tuple[int, int, str], float]:
        found = predict(server, "ner", NER, **more)["data"][0]["output"]["entities"]
        return {(e["start"], e["end"], e["type"]): e["score"] for e in found}

    item = predict(server, "ner", NER, explain=["influence"])["data"][0]
    before = entities()
    assert before
    assert item["citations"]
    for cited in item["citations"]:
        after = entities(retrieval={"exclude_ids": [cited["doc_id"]]})
        gaps = [before.get(k, 0.0) - after.get(k, 0.0) for k in {*before, *after}]
        said = cited["influence"]
        assert abs(said["delta"]) == pytest.approx(max(map(abs, gaps)), abs=1e-5)
        assert said["flips"] == (before.keys() != after.keys())
        for one in said["entities"]:
            key = (one["start"], one["end"], one["type"])
            assert one["score"] == pytest.approx(before.get(key, 0.0), abs=1e-5)
            assert one["without"] == pytest.approx(after.get(key, 0.0), abs=1e-5)
    assert any(cited["influence"]["flips"] for cited in item["citations"])


def test_a_context_has_no_citations_to_tell_the_influence_of(server: TestClient) -> None:
    given = {"question": TOOL, "context": "a drill and more"}
    body = predict(server, "qa", given, explain=["influence"])
    assert body["data"][0]["citations"] == []
    assert body["warnings"] == ["explain.influence: a context that was given is not cited"]


@pytest.mark.parametrize("task", ["qa", "ner"])
def test_ablation_is_not_offered_and_says_so(server: TestClient, task: str) -> None:
    body = {"task": task, "input": TOOL, "explain": ["ablation"]}
    answer = server.post("/predict", json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/capability-missing"
    assert "citations, influence" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("task", "given", "more"),
    [
        ("qa", TOOL, {"explain": ["influence"]}),
        ("qa", [TOOL, "", {"question": TOOL, "context": "a drill and more"}], {}),
        ("qa", TOOL, {"abstain": {"min_confidence": 1.0}, "retrieval": {"k": 3}}),
        ("ner", NER, {"explain": ["influence"]}),
        ("ner", [NER, ""], {"abstain": {"min_support": 0.2}, "params": {"labels": ["SHIP"]}}),
    ],
)
def test_the_same_again_after_writes(
    server: TestClient, task: str, given: object, more: dict[str, Any]
) -> None:
    before = predict(server, task, given, **more)
    kept = server.get("/documents/ship-1").json()
    mark = {"start": 0, "end": 6, "type": "OTHER"}
    for name, body in (
        ("new", {"text": f"{TOOL} wrench"}),
        ("ship-1", {"text": NER, "metadata": {"entities": [mark]}}),
    ):
        assert server.put(f"/documents/{name}", json=body).status_code in (200, 201)
    answer = server.post(f"/predictions/{before['id']}/replay")
    server.delete("/documents/new")
    old = {"text": kept["text"], "metadata": kept["metadata"]}
    assert server.put("/documents/ship-1", json=old).status_code == 200
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert after["replay"]["equal"], after["replay"]
    for was, now in zip(before["data"], after["data"], strict=True):
        assert ("error" in was) == ("error" in now)
        if "error" not in was:
            assert now["abstain_reason"] == was["abstain_reason"]
            ids = [[c["doc_id"] for c in item["citations"]] for item in (was, now)]
            assert ids[0] == ids[1]
    assert {k: after[k] for k in ("id", "created", "index")} == {
        k: before[k] for k in ("id", "created", "index")
    }


def test_an_erased_passage_is_gone_from_an_answer_that_was_kept(server: TestClient) -> None:
    posted = server.post("/documents", json={"id": "private", "text": "a number of very pliers"})
    assert posted.status_code in (200, 201), posted.text
    body = predict(server, "qa", TOOL, retrieval={"k": 30})
    assert "private" in [c["doc_id"] for c in body["data"][0]["citations"]]
    assert server.delete("/documents/private?erase=true").status_code == 200
    kept = server.get(f"/predictions/{body['id']}").json()
    (cited,) = [c for c in kept["data"][0]["citations"] if c["doc_id"] == "private"]
    assert (cited["text"], cited["erased"]) == ("", True)
    assert "pliers" not in str(kept)
    answer = server.post(f"/predictions/{body['id']}/replay")
    assert (answer.status_code, answer.json()["gone"]) == (409, ["documents"])


@pytest.mark.parametrize("task", ["qa", "ner"])
def test_feedback_on_answers_and_entities(server: TestClient, task: str) -> None:
    given = TOOL if task == "qa" else NER
    tool = {"id": "tool", "text": text(random.Random(3), "chisel")}
    assert server.post("/documents", json=tool).status_code == 200
    only = {"mode": "provided", "documents": [tool]}
    body = predict(server, task, given, retrieval=only if task == "qa" else {})
    feedback_item: dict[str, Any] = {"prediction_id": body["id"], "correct": False}
    if task == "qa":
        place = {"text": "hammer", "doc_id": "one", "start": 17, "end": 23}
        feedback_item["answer"] = place
    else:
        feedback_item["entities"] = [{"start": 11, "end": 19, "type": "SHIP"}]
    answer = server.post("/feedback", json=feedback_item)
    assert answer.status_code == 201, answer.text
    assert server.delete(f"/feedback/{answer.json()['id']}").status_code == 200
    # That it was right says which entities there are, or which answer is right and where.
    right = server.post("/feedback", json={"prediction_id": body["id"], "correct": True})
    assert right.status_code == 201, right.text
    lines = [json.loads(line) for line in server.get("/feedback").text.splitlines()]
    (kept,) = [line for line in lines if line["id"] == right.json()["id"]]
    output = body["data"][0]["output"]
    if task == "qa":
        names = {"text": "answer", "doc_id": "doc_id", "start": "start", "end": "end"}
        assert output["answerable"]
        assert kept["answer"] == {ours: output[theirs] for ours, theirs in names.items()}
    else:
        assert [(e["start"], e["end"], e["type"]) for e in kept["entities"]] == [
            (e["start"], e["end"], e["type"]) for e in output["entities"]
        ]
    assert server.delete(f"/feedback/{right.json()['id']}").status_code == 200
    assert server.delete("/documents/tool").status_code == 200
    label = {"prediction_id": body["id"], "correct": False, "label": "fruit"}
    refused = server.post("/feedback", json=label)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/label"
