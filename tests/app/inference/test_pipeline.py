"""The four steps of an answer, each by itself: read, gather, predict, explain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.inference.answer import AnswerOptions, Evidence, make_answer
from app.inference.pipeline import explain, gather, predict, read
from app.inference.snapshot import Snapshot
from app.schemas.predict import ProvidedDocument
from tests.app.conftest import state

TEXT = "I was charged twice for one order"
PLAIN = AnswerOptions()


@pytest.fixture(scope="module")
def snapshot(filled: TestClient) -> Snapshot:
    return state(filled).snapshot()


def text_read(snapshot: Snapshot, text: str = TEXT) -> Any:
    return asyncio.run(read(snapshot.model(), text, "label"))


def gathered(filled: TestClient, snapshot: Snapshot, options: AnswerOptions) -> Evidence:
    pool, text = state(filled).pipeline.pool, text_read(snapshot).state
    return asyncio.run(gather(pool, snapshot, TEXT, text, options, lambda *_: None))


def test_read_gives_the_vector_and_the_tokens(snapshot: Snapshot) -> None:
    done = text_read(snapshot)
    assert done.state.vector.shape == (snapshot.model().model.dim,)
    assert done.state.tokens > text_read(snapshot, "twice").state.tokens
    assert done.waited >= 0


def test_gather_follows_the_mode(filled: TestClient, snapshot: Snapshot) -> None:
    found = gathered(filled, snapshot, AnswerOptions(k=3, exclude_ids=("billing-1",)))
    assert found.hits[0].doc_id == "billing-0"
    assert len(found.hits) == 3
    assert "billing-1" not in [hit.doc_id for hit in found.hits]
    assert found.labels == ("billing", "delivery", "praise", "returns")
    assert gathered(filled, snapshot, AnswerOptions(mode="off")) == Evidence([])
    documents = (
        ProvidedDocument(id="far", text="a walk in the park", label="leisure"),
        ProvidedDocument(id="near", text=TEXT, label="money"),
    )
    given = gathered(filled, snapshot, AnswerOptions(mode="provided", documents=documents))
    assert [hit.doc_id for hit in given.hits] == ["near", "far"]
    assert given.labels == ("leisure", "money")


def test_predict_is_over_the_evidence_that_it_is_given(
    filled: TestClient, snapshot: Snapshot
) -> None:
    evidence, done = gathered(filled, snapshot, PLAIN), text_read(snapshot).state
    serving = snapshot.model()
    whole = asyncio.run(predict(serving, TEXT, done, evidence, PLAIN, closed_book=True))
    assert whole.prediction.label == "billing"
    assert whole.closed is not None
    assert whole.closed.result().label is None  # no head: without retrieval nothing is known
    others = [hit for hit in evidence.hits if hit.document.labels["label"] != "billing"]
    left = Evidence(others, evidence.labels)
    without = asyncio.run(predict(serving, TEXT, done, left, PLAIN))
    assert without.prediction.label != "billing"
    assert without.closed is None


def test_explain_adds_what_is_asked_and_nothing_else(
    filled: TestClient, snapshot: Snapshot
) -> None:
    evidence, done = gathered(filled, snapshot, PLAIN), text_read(snapshot).state
    read: dict[str, Any] = {"input_text": TEXT, "tokens": 1}
    read |= {"queue_ms": 0.0, "retrieve_ms": 0.0, "predict_ms": 0.0}

    async def answered(options: AnswerOptions) -> tuple[Any, Any]:
        predicted = await predict(
            snapshot.model(), TEXT, done, evidence, options, closed_book=options.ablation
        )
        plain = make_answer(predicted.prediction, evidence, options, **read)
        return plain, await explain(plain, predicted, options)

    plain, same = asyncio.run(answered(PLAIN))
    assert same is plain
    plain, full = asyncio.run(answered(AnswerOptions(influence=True, ablation=True)))
    assert plain.closed is None
    assert full.closed is not None
    assert full.closed.changed
    assert all(cited.influence is None for cited in plain.cited)
    assert full.cited[0].influence.delta > 0.1
    assert (full.label, full.confidence) == (plain.label, plain.confidence)
