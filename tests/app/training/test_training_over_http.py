from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.jobs import train as training_job
from app.settings import Settings
from app.training.frozen_rows import ROWS, lines
from model.encoder.encoder import Encoder
from tests.app.conftest import serving
from tests.app.tiny import documents
from tests.app.tiny_ner import sentences
from tests.app.tiny_qa import TOOL, text
from tests.app.training.test_training_tasks import (
    NO_SET,
    params,
    questions,
    reporter,
    stored,
    tensors,
    uploaded,
)

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
def settings(tmp_path: Path, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(tmp_path)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Any, checkpoint: Path
) -> Iterator[TestClient]:
    """A server with a label head, and texts that the questions are about."""
    with serving(settings_for(tmp_path_factory.mktemp("tasks")), checkpoint=checkpoint) as client:
        given = [{"id": f"d{i}", "text": q["context"]} for i, q in enumerate(questions())]
        given += [d.to_json() for d in documents(4)]
        assert client.post("/documents", json={"documents": given}).status_code == 200
        yield client


def upload(client: TestClient, given: list[dict[str, Any]]) -> dict[str, Any]:
    content = "\n".join(json.dumps(row) for row in given)
    answer = client.post("/admin/datasets?name=mine", content=content, headers=NDJSON)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def finished(client: TestClient, order: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/admin/train", json=order)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    while job["state"] in ("queued", "running"):
        time.sleep(0.05)
        job = client.get(f"/admin/jobs/{job['id']}").json()
    return job


@pytest.mark.slow
def test_both_are_trained_over_http_and_serve(
    server: TestClient, settings_for: Any, encoder: Encoder
) -> None:
    made = upload(server, questions())
    assert (made["kind"], made["task"]) == ("squad", "qa")
    order = {"task": "qa", "dataset": made["id"], "lr": 0.005, "holdout": 0.3}
    job = finished(server, {**order, "retrieval": {"k": 4}})
    assert job["state"] == "succeeded", job
    done = job["result"]
    assert done["gate"]["against"] == "off"
    assert done["activated"], done["reason"]
    assert done["report"]["metrics"]["given"]["f1"] > 50
    shown = server.get(f"/admin/models/{done['version']}/report").json()
    assert {*shown["heads"]} == {"label", "qa"}
    assert shown["gate"]["metric"] == "f1"
    page = server.get(f"/admin/models/{done['version']}/report?format=html").text
    assert "cannot be read" not in page
    assert "exact match" in page
    assert "F1 of the baseline" in page
    rng = random.Random(2)
    context = text(rng, "chisel")
    asked = {"task": "qa", "input": {"question": TOOL, "context": context}}
    answer = server.post("/predict", json=asked).json()
    assert answer["model"]["version"] == done["version"]
    (output,) = [one["output"] for one in answer["data"]]
    places = [p for p in [output, *output["alternatives"]] if p["answer"]]
    assert all(context[p["start"] : p["end"]] == p["answer"] for p in places)

    made = upload(server, sentences(80))
    order = {"task": "ner", "dataset": made["id"], "epochs": 12, "lr": 0.01, "batch_size": 8}
    job = finished(server, order)
    assert job["state"] == "succeeded", job
    second = job["result"]
    assert second["activated"], second["reason"]
    folder = Path(server.app.state.footnote.settings.checkpoint_dir)  # type: ignore[attr-defined]
    before, after = tensors(folder / done["version"]), tensors(folder / second["version"])
    assert {*after} == {"label", "qa", "ner"}
    assert {n: after[n] for n in before} == before
    assert before["label"] == tensors(folder / "v1")["label"]
    new = sentences(20, seed=9)
    body = {"task": "ner", "input": [row["text"] for row in new]}
    answer = server.post("/predict", json=body).json()
    assert answer["model"]["version"] == second["version"]
    said = [
        [{k: e[k] for k in ("start", "end", "type")} for e in item["output"]["entities"]]
        for item in answer["data"]
    ]
    assert sum(s == row["entities"] for s, row in zip(said, new, strict=True)) >= 15
    page = server.get(f"/admin/models/{second['version']}/report?format=html").text
    assert "cannot be read" not in page
    assert "MUSIC" in page

    # A worse head of the same name does not go live, and what served goes on.
    worse = finished(server, {**order, "epochs": 1, "lr": 1e-6})["result"]
    assert not worse["activated"], worse["reason"]
    assert worse["gate"]["against"] == "previous"
    assert server.get("/admin/models").json()["active"] == second["version"]
    # A type that the head does not know: refused where nothing knows it, answered once it is said.
    asked = {"task": "ner", "input": "my pear", "params": {"labels": ["FRUIT"]}}
    refused = server.post("/predict", json=asked)
    assert refused.status_code == 422
    assert "no such entity type" in refused.json()["errors"][0]["detail"]
    given = {"id": "f", "text": "buy a pear", "metadata": {}}
    given["metadata"] = {"entities": [{"start": 6, "end": 10, "type": "FRUIT"}]}
    assert server.post("/documents", json={"documents": [given]}).status_code == 200
    (entity,) = server.post("/predict", json=asked).json()["data"][0]["output"]["entities"]
    assert (entity["text"], entity["type"]) == ("pear", "FRUIT")
    assert server.delete("/documents/f").status_code == 200


@pytest.mark.parametrize(
    ("order", "pointer", "said"),
    [
        ({"task": "qa"}, "#/dataset", "shape squad"),
        ({"task": "ner"}, "#/dataset", "metadata.entities"),
        ({"task": "qa", "field": "topic"}, "#/field", "names a label field"),
        ({"task": "ner", "field": "ner"}, "#/field", "names a label field"),
        ({"field": "qa"}, "#/field", "that of the task qa"),
        ({"task": "dialogue"}, "#/task", ""),
        ({"task": "qa", "dataset": "my set"}, "#/dataset", ""),
        ({"task": "qa", "dataset": "spans"}, "#/dataset", "rows (spans) are for the task ner"),
        ({"task": "ner", "dataset": "squad"}, "#/dataset", "rows (squad) are for the task qa"),
        ({"task": "ner", "dataset": "labels"}, "#/dataset", "for the task classification"),
        ({"dataset": "spans"}, "#/dataset", "for the task ner"),
        ({"task": "ner", "dataset": "spans"}, "#/dataset", "it has 2 rows: at least 8"),
        ({"task": "qa", "dataset": "squad"}, "#/dataset", "it has 1 rows: at least 8"),
        ({"task": "ner", "dataset": "empty"}, "#/dataset", "none of its rows has an entity"),
        ({"task": "qa", "dataset": "squad", "margin": 2}, "#/margin", ""),
    ],
)
def test_a_bad_order_is_refused_with_its_place(
    server: TestClient, order: dict[str, Any], pointer: str, said: str
) -> None:
    sets = {
        "spans": sentences(2),
        "squad": questions(1),
        "labels": [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}],
        "empty": [{"text": f"a {i}", "entities": []} for i in range(9)],
    }
    given = dict(order)
    if order.get("dataset") in sets:
        given["dataset"] = upload(server, sets[order["dataset"]])["id"]
    answer = server.post("/admin/train", json=given)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert said in error["detail"]


def test_an_unknown_dataset_is_not_found(server: TestClient) -> None:
    for task in ("qa", "ner"):
        answer = server.post("/admin/train", json={"task": task, "dataset": NO_SET})
        assert answer.status_code == 404


def test_bad_rows_are_named_and_the_good_ones_train(server: TestClient, settings: Settings) -> None:
    """Overlaps and wrong offsets are told by line; tags that start with I- begin an entity."""
    good = sentences(9)
    overlap = {
        "text": "a hammer saw",
        "entities": [{"start": 2, "end": 8, "type": "A"}, {"start": 7, "end": 12, "type": "B"}],
    }
    outside = {"text": "short", "entities": [{"start": 0, "end": 99, "type": "A"}]}
    made = upload(server, [overlap, *good, outside])
    assert [r["line"] for r in made["rejected"]] == [1, 11]
    assert [r["pointer"] for r in made["rejected"]] == ["#/entities/1", "#/entities/0"]
    assert made["rows"] == 9
    wrong = {**questions(1)[0], "answers": [{"text": "hammer", "start": 1}]}
    made = upload(server, [wrong, *questions(9)])
    assert [(r["line"], r["pointer"]) for r in made["rejected"]] == [(1, "#/answers/0/start")]
    assert made["rows"] == 9

    tagged = [{"tokens": [f"a{i}", "hammer", "saw"], "tags": ["O", "I-T", "I-T"]} for i in range(8)]
    stored(settings, [])
    training = params(settings, "ner", _dataset=uploaded(settings, tagged))
    report = training_job.run(training, reporter())["report"]
    assert report["types"] == ["T"]
    assert report["rows"] == 8
    (row, *_) = lines(Path(training["_work"]) / ROWS)
    assert [row["text"][a:b] for a, b, _ in row["entities"]] == ["hammer saw"]
