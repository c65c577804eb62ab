"""A server that writes with a language model that was pre-trained here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.cli import doctor
from app.schemas.prediction import PredictResponse
from app.settings import Settings
from tests.app.conftest import corpus, serving
from tests.model.tiny_generators import make_language_model

PARCEL = "Where is my parcel, it is late"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, settings_for: Any) -> Settings:
    place = tmp_path_factory.mktemp("own")
    base: Settings = settings_for(place)
    folder = make_language_model(base.checkpoint_dir / "language" / "20260101-000000-tiny")
    made: Settings = settings_for(place, generator=str(folder))
    return made


@pytest.fixture(scope="module")
def own(settings: Settings) -> Iterator[TestClient]:
    with serving(settings) as client:
        assert client.post("/documents", json={"documents": corpus()}).status_code == 200
        yield client


def predict(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    PredictResponse.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    return found


def test_it_continues_a_text_beside_the_documents(own: TestClient) -> None:
    body = predict(own, task="generation", input=PARCEL, params={"max_new_tokens": 12})
    item = body["data"][0]
    assert item["output"]["text"]
    assert item["citations"][0]["doc_id"] == "delivery-0"
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] < 40  # documents are no part of it
    assert body["model"]["generator"]["name"] == "20260101-000000-tiny"
    closed = predict(
        own, task="generation", input=PARCEL, params={"max_new_tokens": 12},
        retrieval={"mode": "off"},
    )  # fmt: skip
    assert closed["data"][0]["output"]["text"] != item["output"]["text"]


def test_the_influence_of_a_document_is_that_of_writing_without_it(own: TestClient) -> None:
    asked = {"task": "generation", "input": PARCEL, "params": {"max_new_tokens": 8}}
    item = predict(own, **asked, explain=["influence"])["data"][0]
    found = [c["influence"] for c in item["citations"] if c["influence"]]
    assert found
    assert all(isinstance(one["delta"], float) for one in found)
    assert any(one["delta"] for one in found)
    again = predict(own, **asked, explain=["influence"])["data"][0]
    assert [c["influence"] for c in again["citations"] if c["influence"]] == found


def test_company_changes_no_text(own: TestClient) -> None:
    texts = [f"{PARCEL} {i}" for i in range(4)]
    params = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}
    together = predict(own, task="generation", input=texts, params=params)["data"]
    alone = [predict(own, task="generation", input=t, params=params)["data"][0] for t in texts]
    assert [d["output"] for d in together] == [d["output"] for d in alone]


def test_what_is_out_of_view_is_said(own: TestClient) -> None:
    body = predict(own, task="generation", input="0 1 " * 40, params={"max_new_tokens": 4})
    assert any("out of the generator's view" in note for note in body["warnings"])


def test_it_holds_no_dialogue_which_is_quoted(own: TestClient) -> None:
    messages = [{"role": "user", "content": "Where is my parcel?"}]
    body = predict(own, task="dialogue", input={"messages": messages}, params={"temperature": 0.5})
    item = body["data"][0]
    assert item["output"]["sentences"]
    assert all(s["supported"] for s in item["output"]["sentences"])
    assert any("quoted, not generated" in note for note in body["warnings"])
    chat = {"model": "footnote", "messages": messages}
    assert own.post("/v1/chat/completions", json=chat).status_code == 200
    text = {"model": "20260101-000000-tiny", "prompt": PARCEL, "max_tokens": 4}
    answer = own.post("/v1/completions", json=text)
    assert answer.json()["usage"]["completion_tokens"] == 4


def test_what_writes_is_not_deleted(own: TestClient, settings: Settings) -> None:
    answer = own.delete("/admin/models/20260101-000000-tiny")
    assert answer.status_code == 409, answer.text
    assert "FOOTNOTE_GENERATOR" in answer.json()["detail"]
    assert Path(str(settings.generator)).is_dir()


def test_the_doctor_looks_at_it(settings: Settings, tmp_path: Path) -> None:
    (finding,) = doctor.generator(settings)
    assert finding.state == "ok", finding
    damaged = make_language_model(tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text("{}")
    (finding,) = doctor.generator(settings.model_copy(update={"generator": str(damaged)}))
    assert finding.state == "problem"
    assert "sha256" in finding.detail
