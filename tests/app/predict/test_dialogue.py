"""Dialogue over HTTP: by quotation where there is no generator, by one where there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.predict.extraction import Quotable, chosen, framed, relevance, worded
from app.predict.messages import conversation
from app.predict.passages import Query
from app.problems import Problem
from app.schemas.prediction import PredictResponse
from index_data.documents import Document
from index_data.search.searcher import Hit
from tests.app.predict.test_generation import events

PARCEL = "Where is my parcel, it is late"
ASKED = "Where is my parcel, please"


def talk(client: TestClient, *turns: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    body = {"task": "dialogue", "input": {"messages": messages}, **more}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    PredictResponse.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    return found


def test_what_is_quoted_stands_in_the_cited_document(filled: TestClient) -> None:
    body = talk(filled, ASKED)
    item = body["data"][0]
    content, sentences = item["output"]["message"]["content"], item["output"]["sentences"]
    assert item["abstained"] is False
    assert item["confidence"] is None
    cited = {c["rank"]: c for c in item["citations"]}
    assert sentences
    for sentence in sentences:
        said = content[sentence["start"] : sentence["end"]]
        (rank,) = sentence["citations"]
        assert sentence["supported"]
        assert said in cited[rank]["text"]
        document = filled.get(f"/documents/{cited[rank]['doc_id']}").json()
        assert said in document["text"]
    assert content[sentences[0]["start"] : sentences[0]["end"]] == PARCEL
    assert item["support"] == 1.0
    assert sum(c["weight"] for c in cited.values()) == pytest.approx(1.0)
    assert filled.get(f"/predictions/{body['id']}").json()["data"] == body["data"]


def test_the_turns_before_count_in_what_is_found(filled: TestClient) -> None:
    alone = talk(filled, "and when is that, tell me")["data"][0]
    after = talk(
        filled, "The courier left the package in the rain", "I see", "and when is that, tell me"
    )["data"][0]
    assert after["citations"][0]["doc_id"] == "delivery-1"
    assert [c["doc_id"] for c in alone["citations"]] != [c["doc_id"] for c in after["citations"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zebras quagga okapi", "I have nothing on that."),
        ("斑马是什么动物？", "我没有这方面的资料。"),
    ],
)
def test_without_support_there_is_nothing(filled: TestClient, text: str, said: str) -> None:
    retrieval = {"mode": "provided", "documents": [{"id": "a", "text": "[[[ ]]]"}]}
    for more in ({"retrieval": retrieval}, {"retrieval": {"mode": "off"}}):
        item = talk(filled, text, **more)["data"][0]
        assert item["output"]["message"]["content"] == said
        assert item["abstained"] is True
        assert item["abstain_reason"] in ("no_evidence", "low_support")
        assert item["output"]["sentences"] == []


def test_the_influence_says_what_would_be_quoted_without(filled: TestClient) -> None:
    item = talk(filled, ASKED, explain=["influence"])["data"][0]
    first = next(c for c in item["citations"] if c["weight"] > 0)
    assert first["influence"]["flips"] is True
    assert first["influence"]["delta"] >= 0
    excluded = talk(filled, ASKED, retrieval={"exclude_ids": [first["doc_id"]]})["data"][0]
    assert excluded["output"]["message"]["content"] != item["output"]["message"]["content"]


def test_a_quoted_answer_streams_too(filled: TestClient) -> None:
    found = events(filled, {"task": "dialogue", "input": ASKED})
    assert [name for name, _ in found] == ["retrieval", "token", "prediction", "done"]
    content = found[2][1]["data"][0]["output"]["message"]["content"]
    assert found[1][1]["text"] == content


def test_a_generator_writes_from_the_documents_or_not_at_all(writing: TestClient) -> None:
    body = talk(writing, "I have a question", "Ask", ASKED, params={"max_new_tokens": 12})
    item = body["data"][0]
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["used"] >= 1
    assert item["output"]["message"]["content"]
    assert item["citations"][0]["doc_id"] == "delivery-0"
    nothing = talk(
        writing,
        "zebras",
        retrieval={"mode": "provided", "documents": [{"id": "a", "text": "[[[ ]]]"}]},
    )
    assert nothing["data"][0]["abstained"] is True
    assert nothing["usage"]["completion_tokens"] == 0
    assert nothing["warnings"] == []
    withheld = talk(writing, ASKED, params={"max_new_tokens": 8}, abstain={"min_support": 1.0})[
        "data"
    ][0]
    assert withheld["output"]["message"]["content"] == "I have nothing on that."
    closed = talk(writing, ASKED, retrieval={"mode": "off"}, params={"max_new_tokens": 8})
    assert closed["usage"]["completion_tokens"] == 8
    assert closed["data"][0]["support"] == 0


def test_a_dialogue_that_no_prompt_can_hold_is_refused_though_nothing_bears_on_it(
    writing: TestClient,
) -> None:
    documents = [{"id": "a", "text": "[[[ ]]]"}]
    retrieval = {"mode": "provided", "documents": documents}
    body = {"task": "dialogue", "input": "zebras " * 3_000, "retrieval": retrieval}
    answer = writing.post("/predict", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "context_length_exceeded"
    assert "context is 512" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize("method", ["bm25", "dense", "hybrid"])
def test_a_method_that_is_asked_for_runs_whatever_the_encoder_can_read(
    filled: TestClient, method: str
) -> None:
    for text in ("退款需要几天？", ASKED):
        found = talk(filled, text, retrieval={"method": method})["data"][0]["citations"]
        if text is ASKED or method == "dense":
            assert found
        assert all(method in ("hybrid", *citation["scores"]) for citation in found)


@pytest.mark.parametrize(
    ("messages", "pointer"),
    [
        ([], "/messages"),
        ("a", "/messages"),
        ([{"role": "user"}], "/messages/0"),
        ([{"role": "user", "content": ""}], "/messages/0/content"),
        ([{"role": "user", "content": 5}], "/messages/0/content"),
        ([{"role": "bot", "content": "a"}], "/messages/0/role"),
        ([{"role": "assistant", "content": "a"}], "/messages/0/role"),
        ([{"role": "system", "content": "a"}], "/messages/0/role"),
        ([{"role": r, "content": "a"} for r in ("user", "user")], "/messages/1/role"),
        (
            [{"role": r, "content": "a"} for r in ("user", "assistant", "assistant", "user")],
            "/messages/2/role",
        ),
        ([{"role": r, "content": "a"} for r in ("user", "system", "user")], "/messages/1/role"),
        ([{"role": "user", "content": "x" * 100_001}], "/messages"),
        ([{"role": "user", "content": "a"}] * 101, "/messages"),
    ],
)
def test_bad_messages_are_named(filled: TestClient, messages: Any, pointer: str) -> None:
    found = conversation({"messages": messages}, "#/input", 100_000)
    assert isinstance(found, Problem)
    assert [e.pointer for e in found.errors] == [f"#/input{pointer}"]
    body = {"task": "dialogue", "input": {"messages": messages}}
    answer = filled.post("/predict", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"#/input{pointer}"


def test_what_tells_nothing_or_shares_no_word_does_not_bear_on_it() -> None:
    query, one = Query((("When is the refund paid?", 3), ("a parcel", 1))), np.ones(1, np.float32)
    words = query.words()
    told = {
        "The refund is paid today.": 1.0,
        "It comes today.": 0.0,
        "When is the refund paid?": 0.0,
        "“Is the refund paid?”": 0.0,
        "Your parcel arrived.": 1.0,
        "The refund is paid.": 0.0,  # as was said
    }
    assert {text: relevance(words, one, text, one, None) for text in told} == told
    assert relevance(words, one, "It comes today.", one, "Refunds") == 1.0


def test_without_vectors_the_words_of_the_last_clause_decide() -> None:
    query = Query((("好的，退款需要几天？", 3), ("我的包裹", 1)))
    hits = [
        hit(1, "退款", "包裹在路上。退款需要三天。您要退款吗？"),
        hit(2, None, "退款需要五天。"),
    ]
    (quote,) = chosen(worded(query, hits), hits)
    assert hits[0].text[quote.start : quote.end] == "退款需要三天。"
    asked = hit(1, None, "退款需要几天？")
    assert worded(query, [asked, *hits])[0].place == 1
    (quote,) = worded(query, hits, without=0)
    assert quote.place == 1
    assert worded(query, hits, without=1) == worded(query, hits)
    assert worded(query, [hit(1, None, "今天需要下雨。")]) == []  # it lacks most of the words
    assert worded(query, []) == []


def hit(rank: int, title: str | None, text: str) -> Hit:
    return Hit(f"d{rank}", rank, 1.0, {}, Document(f"d{rank}", text, title), 0, len(text), None)


def test_one_document_is_quoted_and_named_once() -> None:
    hits = [hit(1, "Returns", "Send it back. It is free."), hit(2, None, "退款需要三天。")]
    quotes = [Quotable(0, 14, 25, 0.9), Quotable(1, 0, 7, 0.85), Quotable(0, 0, 13, 0.84)]
    text, places = framed(chosen(quotes, hits), hits)
    assert text == "“Returns”: Send it back. It is free."
    said = [text[p.start : p.end] for p in places]
    assert said == ["Send it back.", "It is free."]
    assert [p.citations for p in places] == [(1,), (1,)]
    text, _ = framed(chosen(quotes[1:], hits), hits)
    assert text == "文档中写道：退款需要三天。"
    assert chosen([], hits) == []
