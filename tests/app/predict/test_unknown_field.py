"""A label field that neither a head nor a document knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import serving
from tests.app.predict.test_predict import CHARGED, classify


@pytest.mark.parametrize("mode", ["index", "off"])
def test_a_field_that_does_not_exist_is_refused_with_those_that_do(
    filled: TestClient, mode: str
) -> None:
    body = {"input": CHARGED, "field": "chaptre", "retrieval": {"mode": mode}}
    named = {"task": "classification"}, {"task": "sentiment"}
    for path, more in [("/classify", {}), *(("/predict", task) for task in named)]:
        answer = filled.post(path, json={**body, **more})
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "#/field"
        assert error["detail"].endswith("there are: label, sentiment")
    assert classify(filled)["warnings"] == []


def test_the_field_of_provided_documents_is_whatever_the_request_calls_it(
    filled: TestClient,
) -> None:
    given = [{"id": "a", "text": CHARGED, "label": "money"}]
    provided = {"mode": "provided", "documents": given}
    assert classify(filled, field="kind", retrieval=provided)["data"][0]["label"] == "money"
    provided["documents"] = [{"id": "a", "text": CHARGED}]
    body = {"input": CHARGED, "field": "kind", "retrieval": provided}
    assert filled.post("/classify", json=body).status_code == 422


def test_an_empty_store_answers_its_default_field_without_a_label(
    tmp_path: Path, settings_for: Any
) -> None:
    with serving(settings_for(tmp_path)) as client:
        for path, task in (("/classify", {}), ("/predict", {"task": "sentiment"})):
            body = client.post(path, json={"input": CHARGED, **task}).json()
            assert (body["data"][0]["abstained"], len(body["warnings"])) == (True, 1)
        asked = {"input": CHARGED, "field": "topic"}
        assert "no document has labels yet" in client.post("/classify", json=asked).text
        fields = {f"topic{i:02}": "a" for i in range(30)}
        documents = [{"id": "a", "text": CHARGED, "labels": fields}]
        assert client.post("/documents", json={"documents": documents}).status_code == 200
        detail = client.post("/classify", json={"input": CHARGED}).json()["errors"][0]["detail"]
        assert "topic00, topic01" in detail
        assert len(detail) <= 200
