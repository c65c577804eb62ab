"""Questions over HTTP: from the index, from documents and texts that come along, and bad ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.inference.engine import Engine
from app.predict.passages import nearest
from app.schemas.prediction import PredictResponse
from index_data.documents import Document
from model.encoder.encoder import Encoder
from model.qa.evidence import PassageText
from model.reader import Reader
from model.training.qa_calibration import ask_all
from tests.app.conftest import serving
from tests.app.tiny import WORDS
from tests.app.tiny_qa import TOOL, text


@pytest.fixture(scope="module")
def server(
    qa_head: Path, tmp_path_factory: pytest.TempPathFactory, settings_for: Any
) -> Iterator[TestClient]:
    with serving(settings_for(tmp_path_factory.mktemp("server")), checkpoint=qa_head) as client:
        yield client


@pytest.fixture(scope="module")
def asked(server: TestClient) -> TestClient:
    rng = random.Random(9)
    documents = [{"id": f"d{i}", "text": text(rng)} for i in range(6)]
    documents.append(
        {"id": "tool", "title": "The tool", "text": "a good number of hammer and more"}
    )
    answer = server.post("/documents", json={"documents": documents})
    assert answer.status_code == 200, answer.text
    return server


def predict(client: TestClient, given: object, **more: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"task": "qa", "input": given, **more})
    assert answer.status_code == 200, answer.text
    PredictResponse.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def test_an_answer_stands_in_the_document_that_it_cites(asked: TestClient) -> None:
    body = predict(asked, {"question": TOOL})
    item = body["data"][0]
    output = item["output"]
    assert (output["answer"], output["doc_id"], output["answerable"]) == ("hammer", "tool", True)
    document = asked.get("/documents/tool").json()["text"]
    assert document[output["start"] : output["end"]] == "hammer"
    weights = {c["doc_id"]: c["weight"] for c in item["citations"]}
    assert weights["tool"] == max(weights.values())
    assert sum(weights.values()) <= 1.0 + 1e-6
    assert 0.0 < item["confidence"] <= item["support"] <= 1.0
    assert asked.get(f"/predictions/{body['id']}").json()["data"] == body["data"]


def test_without_its_document_there_is_less_support(asked: TestClient) -> None:
    there = predict(asked, TOOL)["data"][0]
    gone = predict(asked, TOOL, retrieval={"exclude_ids": ["tool"]})["data"][0]
    assert gone["support"] < there["support"]
    assert gone["output"]["doc_id"] != "tool"
    if not gone["output"]["answerable"]:
        assert gone["output"]["answer"] is None
        assert gone["abstain_reason"] == "low_support"


def test_a_context_is_read_instead_of_the_index(asked: TestClient) -> None:
    context = "the good pear and very. " * 3 + "a number of chisel more. " + "bad plum of."
    output = predict(asked, {"question": TOOL, "context": context})["data"][0]["output"]
    assert output["doc_id"] is None
    found = next(p for p in [output, *output["alternatives"]] if p.get("answer") == "chisel")
    assert context[found["start"] : found["end"]] == "chisel"


def test_documents_that_come_along_are_read(asked: TestClient) -> None:
    given = [{"id": "a", "text": "very good pear of"}, {"id": "b", "text": "a saw and the number"}]
    retrieval = {"mode": "provided", "documents": given}
    item = predict(asked, TOOL, retrieval=retrieval)["data"][0]
    assert (item["output"]["answer"], item["output"]["doc_id"]) == ("saw", "b")
    assert {c["doc_id"] for c in item["citations"]} == {"a", "b"}


def test_titles_are_read_with_their_documents(asked: TestClient) -> None:
    given = {"id": "a", "text": "a saw and the number"}
    bare, titled = (
        predict(asked, TOOL, retrieval={"mode": "provided", "documents": [given | more]})
        for more in ({}, {"title": "pear and apple"})
    )
    assert titled["usage"]["total_tokens"] > bare["usage"]["total_tokens"]
    assert titled["data"][0]["output"]["answer"] == "saw"


def test_a_list_is_answered_item_by_item(asked: TestClient) -> None:
    given = [TOOL, "", {"question": TOOL, "context": "a drill and more"}, {"context": "x"}, 7]
    data = predict(asked, given)["data"]
    assert [("error" in item) for item in data] == [False, True, False, True, True]
    assert data[1]["error"]["errors"][0]["pointer"] == "#/input/1"
    assert data[3]["error"]["errors"][0]["pointer"] == "#/input/3/question"
    assert data[2]["output"]["answer"] == "drill"


def test_the_closed_book_has_no_answer_and_says_why(asked: TestClient) -> None:
    item = predict(asked, TOOL, retrieval={"mode": "off"})["data"][0]
    assert item["output"] == {
        "answer": None, "answerable": False, "doc_id": None, "start": None, "end": None,
        "score": None, "alternatives": [], "reason": "closed_book",
    }  # fmt: skip
    assert item["abstain_reason"] == "no_evidence"
    assert item["citations"] == []


@pytest.mark.parametrize("given", ["what is the", "🙂🙂", "\u0301\u0300", "?!", "\x00"])
def test_questions_without_words_get_a_clear_answer(asked: TestClient, given: str) -> None:
    output = predict(asked, given)["data"][0]["output"]
    assert output["answerable"] is (output["reason"] is None)
    if not any(map(str.isalnum, given)):
        assert output["reason"] == "no_words"
    empty = predict(asked, {"question": given, "context": "\u0301"})["data"][0]["output"]
    assert (empty["answerable"], empty["reason"]) == (False, "no_words")


def test_a_question_that_the_encoder_cannot_read_gets_no_answer(asked: TestClient) -> None:
    item = predict(asked, "退款 需要 多久 呢 退 款", explain=["citations", "influence"])["data"][0]
    assert item["output"]["reason"] == "unreadable"
    assert (item["output"]["answer"], item["output"]["alternatives"]) == (None, [])
    assert item["abstain_reason"] == "no_evidence"


def test_an_empty_index_finds_nothing(asked: TestClient) -> None:
    item = predict(asked, TOOL, retrieval={"filter": {"lang": "xx"}})["data"][0]
    assert (item["output"]["answerable"], item["output"]["reason"]) == (False, "nothing_found")


def test_a_very_long_context_is_read_where_it_bears_on_the_question(asked: TestClient) -> None:
    filler = "the good and very pear. " * 4_000
    long = f"{filler[:48_000]}{TOOL}: chisel. {filler[:48_000]}"
    body = predict(asked, {"question": TOOL, "context": long}, params={"top_n": 50})
    assert any("passages the 32 nearest" in note for note in body["warnings"])
    output = body["data"][0]["output"]
    for place in output["alternatives"]:
        assert long[place["start"] : place["end"]] == place["answer"]
    pieces, _ = nearest([Document("", long)], TOOL, 32)
    assert len(pieces) == 32
    assert any("chisel" in piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"question": TOOL, "context": ""}, "#/input/context"),
        ({"question": TOOL, "context": "x" * 100_001}, "#/input/context"),
        ({"question": "x" * 2_001}, "#/input/question"),
        ({"question": " "}, "#/input/question"),
        ({"context": "x"}, "#/input/question"),
        ({"question": TOOL, "contxt": "x"}, "#/input"),
        ("", "#/input"),
    ],
)
def test_bad_input_is_told_where(asked: TestClient, given: object, pointer: str) -> None:
    answer = asked.post("/predict", json={"task": "qa", "input": given})
    assert answer.status_code == 422
    assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    "more",
    [{"stream": True}, {"explain": ["ablation"]}, {"field": "x"}, {"params": {"labels": ["a"]}}],
)
def test_what_it_cannot_do_is_refused(asked: TestClient, more: dict[str, Any]) -> None:
    answer = asked.post("/predict", json={"task": "qa", "input": TOOL, **more})
    assert answer.status_code == 422


def test_thresholds_withhold_an_answer_but_show_it(asked: TestClient) -> None:
    item = predict(asked, TOOL, abstain={"min_confidence": 1.0})["data"][0]
    assert item["output"]["answer"] is None
    assert item["output"]["alternatives"][0]["answer"] == "hammer"
    assert item["abstain_reason"] == "low_confidence"


def test_the_engine_answers_in_batches_as_it_does_alone(qa_head: Path, encoder: Encoder) -> None:
    engine = Engine(lambda: Reader.load(qa_head, encoder.fork()), max_tokens=64, batch_tokens=96)
    engine.start().result(timeout=60)
    rng = random.Random(1)
    texts = [
        [PassageText(text(rng, rng.choice(WORDS["tool"]))) for _ in range(4)] for _ in range(5)
    ]
    with engine.use():
        futures = [engine.answer(TOOL, t, "qa") for t in texts]
        gone = engine.answer(TOOL, texts[0], "qa")
        gone.cancel()
        unknown = engine.answer(TOOL, texts[0], "nothing")
        assert isinstance(unknown.exception(timeout=60), KeyError)
        again = [engine.answer(TOOL, t, "qa") for t in texts]
        found = [f.result(timeout=60) for f in again]
    spans = Reader.load(qa_head, encoder).spans("qa")
    for said, t in zip(found, texts, strict=True):
        alone = ask_all(spans, [spans.ask(TOOL, t)])[0]
        assert said.spans[0].text == alone.spans[0].text
        assert said.mass == pytest.approx(alone.mass, abs=1e-4)
    assert all(f.done() for f in futures)
    engine.retire()
    assert engine.join(10)
