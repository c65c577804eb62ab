"""Another base encoder goes live with the generation that holds its vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

from app.settings import Settings
from tests.app.conftest import corpus, serving, state
from tests.app.manage.test_admin import wait
from tests.app.predict.test_multilabel import FIELD, listed
from tests.app.tiny import documents


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    """A small ModernBERT of another width, by the same tokenizer."""
    folder = tmp_path_factory.mktemp("modernbert")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(encoder_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        local_attention=8,
        pad_token_id=0,
    )
    ModernBertModel(config).save_pretrained(folder)
    return folder


def reindexed(client: TestClient, order: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/admin/reindex", json=order)
    assert answer.status_code == 202, answer.text
    return wait(client, answer.json())


def test_it_changes_while_the_server_serves(
    tmp_path: Path, settings_for: Callable[..., Settings], other_folder: Path
) -> None:
    settings = settings_for(tmp_path)
    with serving(settings) as client:
        client.post("/documents", json={"documents": corpus()})
        first = state(client).snapshot().model().model.encoder_sha256
        bad: list[Any] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.02):  # a job has a low priority: on one core it needs the pauses
                answer = client.post("/classify", json={"input": "charged twice"}).json()
                if answer.get("degraded") or not answer["data"][0]["citations"]:
                    bad.append(answer)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            job = reindexed(client, {"encoder": str(other_folder)})
        finally:
            stop.set()
            asking.join()
        assert job["state"] == "succeeded", job
        assert not bad, bad[0]
        snapshot = state(client).snapshot()
        assert snapshot.vectors_fit
        assert snapshot.model().model.encoder_sha256 != first
        assert snapshot.model().model.dim == 32
        posted = {"text": "a kettle with a broken lid", "label": "returns"}
        assert client.post("/documents", json=posted).status_code in (200, 201)
        hits = client.post("/search", json={"query": "kettle lid", "method": "dense"}).json()
        assert hits["hits"]
    with serving(settings) as client:  # the setting is what it was: the change stands
        assert state(client).snapshot().model().model.dim == 32
        assert state(client).snapshot().vectors_fit


def test_a_changed_setting_is_fulfilled_by_a_reindex(
    tmp_path: Path, settings_for: Callable[..., Settings], other_folder: Path
) -> None:
    settings = settings_for(tmp_path)
    with serving(settings) as client:
        client.post("/documents", json={"documents": corpus()})
        assert reindexed(client, {})["state"] == "succeeded"
    with serving(settings_for(tmp_path, encoder=str(other_folder))) as client:
        (job,) = [j for j in client.get("/admin/jobs").json()["jobs"] if j["params"].get("encoder")]
        assert wait(client, job)["state"] == "succeeded"
        assert state(client).snapshot().vectors_fit
        assert state(client).snapshot().model().model.dim == 32


def test_it_goes_live_if_better_by_a_paired_test(
    tmp_path: Path, settings_for: Callable[..., Settings], other_folder: Path, encoder_folder: Path
) -> None:
    rows = [document.to_json() for document in documents(12)]
    with serving(settings_for(tmp_path)) as client:
        assert client.post("/documents", json={"documents": rows}).status_code == 200
        order = {"encoder": str(other_folder), "activate": "if_better"}
        before = state(client).snapshot().model().model.encoder_sha256
        # BM25 finds what it found: another random encoder is surely no better.
        job = reindexed(client, order)
        assert job["state"] == "succeeded", job
        result, gate = job["result"], job["result"]["gate"]
        assert (result["activated"], gate["activate"], gate["wish"]) == (False, False, "if_better")
        assert (gate["rows"], gate["evaluated_on"]) == (len(rows), "all")
        gap = gate["accuracy"] - gate["rival_accuracy"]
        assert gate["difference"] == pytest.approx(gap, abs=1e-5)
        assert gate["better"] - gate["worse"] == pytest.approx(gap * gate["rows"], abs=1e-3)
        assert f"{gate['worse']} worse of {gate['rows']}" in gate["reason"]
        snapshot = state(client).snapshot()
        assert snapshot.model().model.encoder_sha256 == before
        assert snapshot.vectors_fit
        kept = {i["generation"] for i in client.get("/admin/indexes").json()["indexes"]}
        assert result["generation"] in kept

        # With the margin at its widest the same one may pass, and then it serves.
        job = reindexed(client, {**order, "margin": 0.5})
        assert job["result"]["activated"] == (job["result"]["gate"]["lower_90"] >= -0.5)
        assert job["result"]["activated"]
        assert state(client).snapshot().model().model.encoder_sha256 != before

        # The same encoder again is no candidate; nor is one that is asked for in any case.
        for plain in (
            {"activate": "if_better"},
            {"encoder": str(encoder_folder), "activate": "always"},
        ):
            result = reindexed(client, plain)["result"]
            assert (result["activated"], result["gate"]) == (True, None)
        assert state(client).snapshot().model().model.encoder_sha256 == before
        result = reindexed(client, {"activate": "never"})["result"]
        assert (result["activated"], result["gate"]) == (False, None)


def test_sets_of_labels_are_judged_too(
    tmp_path: Path, settings_for: Callable[..., Settings], other_folder: Path
) -> None:
    rows = [document.to_json() for document in listed(4)]
    with serving(settings_for(tmp_path)) as client:
        assert client.post("/documents", json={"documents": rows}).status_code == 200
        order = {"encoder": str(other_folder), "activate": "if_better", "field": FIELD}
        job = reindexed(client, order)
        assert job["state"] == "succeeded", job
        gate = job["result"]["gate"]
        assert (gate["rows"], gate["field"], gate["head"]) == (len(rows), FIELD, False)
        assert job["result"]["activated"] == gate["activate"]


def test_there_must_be_labels_to_judge_another_encoder_on(
    tmp_path: Path, settings_for: Callable[..., Settings], other_folder: Path
) -> None:
    with serving(settings_for(tmp_path)) as client:
        client.post("/documents", json={"documents": corpus()})
        body = {"encoder": str(other_folder), "activate": "if_better", "field": "nothing"}
        answer = client.post("/admin/reindex", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/field")
        answer = client.post("/admin/reindex", json={"analyzer": "another"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/analyzer")


def test_one_that_does_not_load_changes_nothing(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path)) as client:
        client.post("/documents", json={"documents": corpus()})
        before = state(client).snapshot().model().model.encoder_sha256
        job = reindexed(client, {"encoder": str(tmp_path / "nothing")})
        assert job["state"] == "failed"
        assert "does not load" in job["problem"]["detail"]
        assert state(client).snapshot().model().model.encoder_sha256 == before
        refused = client.post("/admin/reindex", json={"encoder": "x", "activate": False})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "#/activate"
