"""Bad input on every route that takes a body: refused with a pointer, never a fault or an echo."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.routes.docs import scopes
from tests.app.conftest import state

MARK = "zq7marker"
BODIES: dict[str, dict[str, Any]] = {
    "/predict": {"task": "classification", "input": "a parcel"},
    "/classify": {"input": "a parcel"},
    "/v1/classify": {"input": "a parcel"},
    "/v1/chat/completions": {
        "model": "footnote",
        "messages": [{"role": "user", "content": "a parcel"}],
    },
    "/v1/completions": {"model": "footnote", "prompt": "a parcel"},
    "/search": {"query": "a parcel"},
    "/analyze": {"text": "a parcel"},
    "/documents": {"text": "a parcel"},
    "/documents:delete": {"filter": {"lang": "xx"}, "dry_run": True},
    "/feedback": {"input": "a parcel", "label": "delivery", "preview": True},
}
RAW = {
    "empty": b"",
    "no JSON": b"{" + MARK.encode(),
    "not UTF-8": b'{"input": "\xff\xfe"}',
    "lone surrogate": b'{"input": "\\ud800", "query": "\\ud800", "text": "\\ud800"}',
    "NaN": b'{"input": NaN}',
    "infinite": b'{"input": 1e999}',
    "deep": b"[" * 100_000,
    "deep and closed": b'{"input":' + b"[" * 500 + b"]" * 500 + b"}",
    "a number": b"5",
    "null": b"null",
    "a list": b"[]",
}


def refused(answer: Any, *, status: int = 422) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert len(answer.content) <= 4096
    assert MARK not in answer.text
    body: dict[str, Any] = answer.json()
    if "error" in body:
        return body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    if status == 422 and body["type"] == "/problems/validation":
        assert all(e["pointer"].startswith("#") for e in body["errors"])
        assert body["errors"]
    return body


def post(client: TestClient, path: str, raw: bytes, kind: str = "application/json") -> Any:
    return client.post(path, content=raw, headers={"content-type": kind})


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_what_is_no_body(filled: TestClient, path: str, raw: bytes) -> None:
    refused(post(filled, path, raw))


@pytest.mark.parametrize("path", BODIES)
def test_unknown_fields_types_media_and_size(filled: TestClient, path: str) -> None:
    good = BODIES[path]
    refused(post(filled, path, json.dumps({**good, MARK + "é" * 9000: 1}).encode()))
    for name in good:
        refused(post(filled, path, json.dumps({**good, name: {"x": MARK}}).encode()))
    refused(post(filled, path, json.dumps(good).encode(), "text/plain"), status=415)
    limit = state(filled).settings.max_body
    refused(post(filled, path, b'"' + MARK.encode() * (limit // 9 + 1) + b'"'), status=413)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/classify", {"input": ""}, "#/input"),
        ("/classify", {"input": "x" * 1_000_000}, "#/input"),
        ("/classify", {"input": [""] * 2}, "#/input/0"),
        ("/classify", {"input": ["a"] * 33}, "#/input"),
        ("/classify", {"input": []}, "#/input"),
        ("/classify", {"input": "a", "retrieval": {"k": 0}}, "#/retrieval/k"),
        ("/classify", {"input": "a", "retrieval": {"k": 10_000}}, "#/retrieval/k"),
        ("/classify", {"input": "a", "retrieval": {"k": "8"}}, "#/retrieval/k"),
        ("/classify", {"input": "a", "retrieval": {"filter": {"x": 1}}}, "#/retrieval/filter/x"),
        ("/classify", {"input": "a", "retrieval": {"mode": "provided"}}, "#/retrieval/documents"),
        ("/classify", {"input": "a", "labels": ["unheard of"]}, "#/labels/0"),
        ("/classify", {"input": "a", "abstain": {"min_support": 2}}, "#/abstain/min_support"),
        (
            "/classify",
            {"input": "a", "retrieval": {"min_sequence": 10**9}},
            "#/retrieval/min_sequence",
        ),
        ("/predict", {"task": "singing", "input": "a"}, "#/task"),
        ("/predict", {"task": "classification", "input": {"question": "a"}}, "#/input"),
        ("/predict", {"input": "a"}, "#/task"),
        ("/predict", {"task": "dialogue", "input": {"messages": []}}, "#/input/messages"),
        ("/predict", {"task": "dialogue", "input": ""}, "#/input/0/content"),
        ("/search", {"query": "a", "k": 0}, "#/k"),
        ("/search", {"query": "a", "k": 10_000}, "#/k"),
        ("/search", {"query": "  "}, "#/query"),
        ("/search", {"query": "a", "lang": "not_a_tag"}, "#/lang"),
        ("/analyze", {"text": "a", "lang": "??"}, "#/lang"),
        ("/analyze", {"text": "x" * 1_000_000}, "#/text"),
        ("/documents", {"text": ""}, "#/text"),
        ("/documents", {"text": "a", "lang": "e"}, "#/lang"),
        ("/documents", {"text": "a", "id": "b/c"}, "#/id"),
        ("/documents", {"documents": [{"text": ""}]}, "#/documents/0/text"),
        ("/documents:delete", {"filter": {}}, "#/filter"),
        ("/feedback", {"label": "x"}, "#"),
        ("/feedback", {"input": "a"}, "#/label"),
        ("/feedback", {"input": "a", "label": "b\u0007", "apply": "index"}, "#/label"),
    ],
)
def test_the_pointer_names_the_place(
    filled: TestClient, path: str, body: dict[str, Any], pointer: str
) -> None:
    found = refused(post(filled, path, json.dumps(body).encode()))
    assert pointer in [e["pointer"] for e in found["errors"]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NAMES = sorted({name for body in BODIES.values() for name in body} | {"retrieval", "k", "labels"})


@settings(max_examples=60)
@given(
    path=st.sampled_from(sorted(set(BODIES) - {"/documents"})),
    body=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5) | JSON,
)
def test_no_body_makes_a_fault(filled: TestClient, path: str, body: Any) -> None:
    given_body = {**BODIES[path], **body} if isinstance(body, dict) else body
    answer = post(filled, path, json.dumps(given_body).encode("utf-8", "surrogatepass"))
    known = (200, 404, 422) if path.startswith("/v1/c") else (200, 422)  # no such model
    assert answer.status_code in known, answer.text
    assert len(answer.content) <= 4096 or answer.status_code == 200


@settings(max_examples=30)
@given(text=st.text(min_size=1, max_size=200))
def test_any_text_is_answered_or_refused(filled: TestClient, text: str) -> None:
    for path, name in (("/classify", "input"), ("/search", "query"), ("/analyze", "text")):
        answer = post(filled, path, json.dumps({name: text}).encode())
        assert answer.status_code in (200, 422), answer.text


@pytest.mark.parametrize("tail", ["%00", "%ff%fe", "..%2f..", "a" * 5000, "%F0%9F%98%80", "x%0a"])
@pytest.mark.parametrize("path", ["/documents/", "/predictions/", "/feedback/", "/problems/"])
def test_strange_addresses(filled: TestClient, path: str, tail: str) -> None:
    for method in ("GET", "DELETE"):
        answer = filled.request(method, path + tail)
        assert answer.status_code in (404, 405), answer.text
        assert len(answer.content) <= 4096


@pytest.mark.parametrize(
    "query",
    ["cursor=%ff", "cursor=AAAA", "limit=0", "limit=x", "filter={", "filter=[]", "filter=1"],
)
def test_bad_parameters_of_the_list(filled: TestClient, query: str) -> None:
    answer = filled.get(f"/documents?{query}")
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        refused(answer)


def test_every_route_has_a_scope_and_refuses_other_methods(filled: TestClient) -> None:
    found = scopes(filled.app)  # type: ignore[arg-type]
    assert len(found) > 20
    answer = filled.request("PATCH", "/classify")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert answer.json()["type"] == "/problems/method-not-allowed"
