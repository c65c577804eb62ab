from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.testclient import TestClient

from app.manage import documents as document_service
from app.schemas.documents import DeleteResponse, DocumentPage, SearchResponse, WriteResponse
from tests.app.conftest import state

NDJSON = {"content-type": "application/x-ndjson"}


def found(client: TestClient, query: str) -> list[str]:
    answer = client.post("/search", json={"query": query, "method": "bm25"})
    body = SearchResponse.model_validate(answer.json())
    return [hit.doc_id for hit in body.hits]


def test_a_document_is_found_once_it_is_answered(client: TestClient) -> None:
    answer = client.post("/documents", json={"id": "new", "text": "a quixotic kumquat"})
    body = WriteResponse.model_validate(answer.json())
    assert (body.accepted, body.created, body.updated, body.ids) == (1, 1, 0, ["new"])
    assert found(client, "quixotic") == ["new"]
    hit = client.post("/search", json={"query": "kumquat"}).json()["hits"][0]
    place = hit["highlights"][0]
    assert hit["text"][place["start"] : place["end"]] == "kumquat"
    answer = client.post("/documents", json={"id": "new", "text": "a plain kumquat"})
    assert answer.json()["updated"] == 1
    assert found(client, "quixotic") == []


def test_a_new_label_counts_in_the_next_prediction(client: TestClient) -> None:
    text = "the firmware will not update"
    client.post("/documents", json={"text": text, "label": "technical"})
    item = client.post("/classify", json={"input": text}).json()["data"][0]
    assert item["label"] == "technical"


def test_etags(client: TestClient) -> None:
    path = "/documents/billing-0"
    answer = client.get(path)
    tag = answer.headers["etag"]
    assert client.get(path, headers={"if-none-match": tag}).status_code == 304
    body = {"text": "another text", "label": "billing"}
    changed = client.put(path, json=body, headers={"if-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] == client.get(path).headers["etag"] != tag
    for refused in (
        client.put(path, json=body, headers={"if-match": tag}),
        client.delete(path, headers={"if-match": tag}),
    ):
        assert refused.status_code == 412
        assert refused.json()["type"] == "/problems/precondition-failed"
    assert client.put("/documents/fresh", json=body).status_code == 201
    assert client.put("/documents/fresh", json={**body, "id": "x"}).status_code == 422


def test_deleting(client: TestClient) -> None:
    assert client.delete("/documents/billing-0").status_code == 200
    assert client.delete("/documents/billing-0").status_code == 404
    assert client.get("/documents/billing-0").status_code == 404
    assert "billing-0" not in found(client, "charged twice")
    wanted = {"filter": {"label": "delivery"}}
    dry = DeleteResponse.model_validate(
        client.post("/documents:delete", json={**wanted, "dry_run": True}).json()
    )
    assert (dry.deleted, dry.dry_run) == (2, True)
    assert client.get("/documents/delivery-0").status_code == 200
    assert client.post("/documents:delete", json=wanted).json()["deleted"] == 2
    assert client.get("/documents/delivery-0").status_code == 404


def test_pages_hold_every_document_once(filled: TestClient) -> None:
    cursor, ids = None, []
    while True:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = DocumentPage.model_validate(filled.get("/documents", params=query).json())
        ids += [d["id"] for d in page.documents]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(ids) == len(set(ids)) == page.total
    only = filled.get("/documents", params={"filter": json.dumps({"label": "praise"})}).json()
    assert {d["id"] for d in only["documents"]} == {"praise-0", "praise-1"}


def test_ndjson_names_what_it_rejects_and_loses_nothing_else(client: TestClient) -> None:
    lines = [
        json.dumps({"id": "l1", "text": "limequat one"}),
        "{broken",
        "",
        json.dumps({"text": ""}),
        json.dumps({"id": "l5", "text": "limequat two"}),
    ]
    answer = client.post("/documents", content="\n".join(lines).encode(), headers=NDJSON)
    body = WriteResponse.model_validate(answer.json())
    assert body.accepted == 2
    assert [(r.line, r.pointer) for r in body.rejected] == [(2, "#"), (4, "#/text")]
    assert sorted(found(client, "limequat")) == ["l1", "l5"]
    answer = client.post("/documents", content=b"{\n{", headers=NDJSON)
    assert answer.status_code == 422


def test_a_broken_import_keeps_whole_batches(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_service, "BATCH_LINES", 10)
    footnote = state(client)
    target = document_service.Target(footnote.store, footnote.indexer, footnote.imported)

    async def breaks() -> AsyncIterator[bytes]:
        for number in range(25):
            yield json.dumps({"id": f"b{number}", "text": "broken"}).encode() + b"\n"
        raise ConnectionError

    async def go() -> None:
        with pytest.raises(ConnectionError):
            await document_service.import_lines(target, breaks(), "durable")

    asyncio.run(go())
    assert footnote.store.get("b19") is not None
    assert footnote.store.get("b20") is None


def test_a_line_that_is_too_long_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_service, "MAX_LINE", 10)

    async def stream() -> AsyncIterator[bytes]:
        for chunk in (b"abc\nde", b"f\n", b"x" * 8, b"x" * 8, b"x" * 8, b"\nlast"):
            yield chunk

    async def collect() -> list[bytes | None]:
        return [line async for line in document_service.lines(stream())]

    assert asyncio.run(collect()) == [b"abc", b"def", None, b"last"]


def test_min_sequence_is_waited_for(client: TestClient) -> None:
    body = {"id": "late", "text": "a belated bergamot"}
    sequence = client.post("/documents?wait=durable", json=body).json()["sequence"]
    wanted = {"query": "bergamot", "method": "bm25", "min_sequence": sequence}
    answer = client.post("/search", json=wanted).json()
    assert answer["sequence"] >= sequence
    assert [hit["doc_id"] for hit in answer["hits"]] == ["late"]
