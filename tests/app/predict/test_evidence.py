"""``retrieval.evidence`` over HTTP: defaults by task, what a request and a document say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import corpus, serving

TEXT = "I was charged twice for one order"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, settings_for: Any) -> Iterator[TestClient]:
    texts = {"fact": TEXT, "marked": f"{TEXT} again", "said": f"{TEXT}, once more"}
    more: list[dict[str, Any]] = [{"id": name, "text": text} for name, text in texts.items()]
    more[1]["metadata"] = {"entities": [{"start": 0, "end": 1, "type": "WHO"}]}
    more[2] |= {"labels": {"label": "billing"}, "metadata": {"role": "knowledge"}}
    with serving(settings_for(tmp_path_factory.mktemp("server"))) as client:
        answer = client.post("/documents", json={"documents": [*corpus(), *more]})
        assert answer.status_code == 200, answer.text
        yield client


def predicted(client: TestClient, task: str, **retrieval: Any) -> dict[str, Any]:
    body = {"task": task, "input": TEXT, "retrieval": {"k": 20, **retrieval}}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


def cited(client: TestClient, task: str, **retrieval: Any) -> set[str]:
    return {one["doc_id"] for one in predicted(client, task, **retrieval)["data"][0]["citations"]}


EXAMPLES = {one["id"] for one in corpus()}
KNOWLEDGE = {"fact", "said"}


def test_labels_are_predicted_from_documents_that_carry_the_field(server: TestClient) -> None:
    for task in ("classification", "sentiment"):
        done = predicted(server, task)["data"][0]
        assert {one["doc_id"] for one in done["citations"]} == EXAMPLES
        assert all(one["label"] is not None for one in done["citations"])
    assert cited(server, "classification", evidence="knowledge") == KNOWLEDGE
    everything = EXAMPLES | KNOWLEDGE | {"marked"}
    assert cited(server, "classification", evidence="all") == everything


def test_entities_come_from_marked_sentences(server: TestClient) -> None:
    assert cited(server, "ner") == {"marked"}
    assert cited(server, "ner", evidence="knowledge") == set()


def test_a_dialogue_rests_on_knowledge_where_there_is_any(server: TestClient) -> None:
    def retrieved(**retrieval: Any) -> int:
        count: int = predicted(server, "dialogue", **retrieval)["usage"]["retrieved"]
        return count

    assert retrieved() == len(KNOWLEDGE)
    assert retrieved(evidence="examples") == len(EXAMPLES) + 1
    assert retrieved(evidence="all") == len(EXAMPLES) + 3
    tickets = {"metadata.source": "test"}
    assert retrieved(filter=tickets) == len(EXAMPLES)
    assert retrieved(filter=tickets, evidence="knowledge") == 0


def test_what_is_provided_is_all_evidence(server: TestClient) -> None:
    given = {"mode": "provided", "documents": [{"id": "own", "text": TEXT}]}
    assert cited(server, "classification", **given) == {"own"}
    body = {"input": TEXT, "retrieval": {**given, "evidence": "all"}}
    answer = server.post("/classify", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/retrieval/evidence"


def test_a_replay_has_the_evidence_of_its_record(server: TestClient) -> None:
    for evidence in ({}, {"evidence": "all"}):
        done = predicted(server, "classification", **evidence)
        again = server.post(f"/predictions/{done['id']}/replay").json()
        assert again["replay"]["equal"]
        assert again["data"][0]["citations"] == done["data"][0]["citations"]


def test_a_search_finds_every_document(server: TestClient) -> None:
    hits = server.post("/search", json={"query": TEXT, "k": 20}).json()["hits"]
    assert {"fact", "marked", "said", "billing-0"} <= {hit["doc_id"] for hit in hits}
