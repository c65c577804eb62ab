"""A task is a class and a row in the table: a toy one is asked over HTTP like any other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.inference.answer import Answered, Cited, Evidence
from app.predict.inputs import TextInput, texts
from app.predict.passages import Query, retrieve
from app.predict.task import Context, Task, citation
from app.predict.tasks import TASKS
from app.problems import Problem
from app.schemas.predict import TaskRequest
from app.schemas.prediction import PredictResponse
from app.settings import Settings

LATE = "Where is my parcel, it is late"


class Length(Task[TextInput, Answered]):
    """How many characters a text has, with the passages that are nearest to it."""

    def read(self, request: TaskRequest, settings: Settings) -> list[TextInput | Problem]:
        return texts(request.input, settings.max_input_chars)

    async def answer(
        self, context: Context, given: TextInput, recorded: Evidence | None
    ) -> Answered:
        passages = await retrieve(context, Query(((given.text, 1),)), recorded)
        began = time.perf_counter()
        return Answered(
            input_text=given.text,
            evidence=Evidence(passages.hits),
            retrieved=len(passages.hits),
            used=0,
            tokens=len(given.text),
            retrieve_ms=passages.retrieve_ms,
            predict_ms=1000 * (time.perf_counter() - began),
            warnings=[*passages.warnings, "a length is not an answer"],
        )

    def item(self, request: TaskRequest, answer: Answered) -> dict[str, Any]:
        cited = [citation(Cited(hit, 0.0), "label") for hit in answer.evidence.hits]
        return {"output": {"characters": answer.tokens}, "citations": cited}


@pytest.fixture
def toy(client: TestClient) -> Iterator[TestClient]:
    TASKS["length"] = Length()
    yield client
    del TASKS["length"]


def test_a_new_task_is_answered_kept_and_replayed(toy: TestClient) -> None:
    body = {"task": "length", "input": [LATE, "", "parcel"], "retrieval": {"k": 2}}
    answer = toy.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    given = answer.json()
    first, bad, last = given["data"]
    assert (first["output"], last["output"]) == ({"characters": len(LATE)}, {"characters": 6})
    assert first["citations"][0]["doc_id"] == "delivery-0"
    assert bad["error"]["errors"][0]["pointer"] == "#/input/1"
    assert given["task"] == "length"
    assert given["warnings"] == ["a length is not an answer"]
    assert given["usage"]["retrieved"] == 4
    assert given["timing_ms"]["total"] >= given["timing_ms"]["retrieve"] > 0
    assert toy.get(f"/predictions/{given['id']}").json() == given
    assert toy.put("/documents/delivery-0", json={"text": "another text"}).status_code == 200
    again = toy.post(f"/predictions/{given['id']}/replay")
    assert again.status_code == 200, again.text
    assert again.json()["data"] == given["data"]
    assert again.json()["replay"] == {"equal": True, "difference": 0.0}
    # Its answers are not labels, it cannot be streamed, and its bad inputs are refused.
    label = {"prediction_id": given["id"], "label": "delivery"}
    assert toy.post("/feedback", json=label).json()["errors"][0]["pointer"] == "#/label"
    streamed = toy.post("/predict", json={"task": "length", "input": LATE, "stream": True})
    assert streamed.json()["type"] == "/problems/capability-missing"
    assert toy.post("/predict", json={"task": "length", "input": ""}).status_code == 422


def test_the_table_decides_which_tasks_there_are(filled: TestClient) -> None:
    for task in ("length", 5, None, ["qa"]):
        answer = filled.post("/predict", json={"task": task, "input": LATE})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error == {
            "pointer": "#/task",
            "detail": "should be 'classification', 'sentiment', 'ner', 'qa', 'dialogue' or "
            "'generation'",
        }
    schemas = filled.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["PredictRequest"]["properties"]["task"] == {
        "enum": [*TASKS],
        "title": "Task",
        "type": "string",
    }
    answer = filled.post("/predict", json={"task": "sentiment", "input": LATE})
    assert PredictResponse.model_validate(answer.json()).task == "sentiment"
