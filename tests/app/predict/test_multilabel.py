"""A field whose values are lists, from training to the answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.jobs import evaluate as evaluation_job
from app.jobs import train as training_job
from app.jobs.inputs import dataset_folder
from app.manage.report_page import page
from app.schemas.admin import ModelReport
from app.schemas.prediction import ClassifyResponse, PredictResponse
from app.settings import Settings
from app.training import labels as training_set
from app.training.promotion import decide
from app.worker import Reporter
from index_data.documents import Document
from tests.app.conftest import serving
from tests.app.jobs.test_training_job import open_store, params, reporter
from tests.app.tiny import WORDS

FIELD = "topics"
BOTH = "hammer saw and apple pear, tell me about the apple and the saw"


def listed(per_pair: int = 10) -> list[Document]:
    """Documents on one topic or two."""
    found = []
    for one, two in itertools.combinations_with_replacement(WORDS, 2):
        for i in range(per_pair):
            words = [
                WORDS[one][i % 8],
                WORDS[two][(i * 3 + 1) % 8],
                WORDS[one][(i + i // 8 + 2) % 8],
            ]
            found.append(
                Document(
                    id=f"{one}-{two}-{i}",
                    text=f"tell {words[0]} about {words[1]} and {i} {words[2]} {words[1]}",
                    labels={FIELD: [*dict.fromkeys([one, two])]},
                )
            )
    return found


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]
) -> tuple[Settings, dict[str, Any]]:
    """A store with lists, and what the training job made of it."""
    settings = settings_for(tmp_path_factory.mktemp("several"))
    single = Document(id="single", text="a plain apple", labels={FIELD: "fruit"})
    open_store(settings, [*listed(), single])
    return settings, training_job.run(params(settings, field=FIELD, epochs=6), reporter())


@pytest.fixture(scope="module")
def client(
    trained: tuple[Settings, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    settings_for: Callable[..., Settings],
) -> Iterator[TestClient]:
    """A server with that head and its documents."""
    fresh = settings_for(tmp_path_factory.mktemp("served"))
    with serving(fresh, checkpoint=trained[0].checkpoint_dir / "v1") as client:
        documents = [
            {"id": d.id, "text": d.text, "labels": {FIELD: d.labels[FIELD]}} for d in listed()
        ]
        assert client.post("/documents", json={"documents": documents}).status_code == 200
        yield client


def classify(client: TestClient, text: str = BOTH, **body: Any) -> dict[str, Any]:
    answer = client.post("/classify", json={"input": text, "field": FIELD, **body})
    assert answer.status_code == 200, answer.text
    ClassifyResponse.model_validate(answer.json())
    item: dict[str, Any] = answer.json()["data"][0]
    return item


def test_training_on_lists_reports_and_is_judged(
    trained: tuple[Settings, dict[str, Any]],
) -> None:
    settings, result = trained
    report = result["report"]
    assert result["data"]["multilabel"]
    assert result["data"]["rows"] == len(listed()) + 1
    assert report["metrics"].keys() == {"on", "off", "none", "neighbours"}
    said = decide(report, "if_better")
    assert said["metric"] == "row_f1"
    assert said["row_f1"] == report["metrics"]["on"]["row_f1"]
    assert said["rival_row_f1"] == report["metrics"]["neighbours"]["row_f1"]
    assert "F1 of a row" in said["reason"]
    assert said["rows"] == report["held_out"]
    first = params(settings)["_out"]
    again = training_job.run(
        params(settings, field=FIELD, _out=str(settings.checkpoint_dir / "v2"), _base=first),
        reporter(),
    )
    assert decide(again["report"], "if_better")["against"] == "previous"
    evaluated = evaluation_job.run(
        {
            **params(settings, field=FIELD),
            "_checkpoint": first,
            "_version": "v1",
            "held_out": True,
            "limit": None,
        },
        reporter(),
    )
    assert evaluated["rows"] == report["held_out"]
    assert evaluated["metrics"]["off"]["micro_f1"] == pytest.approx(
        report["metrics"]["off"]["micro_f1"]
    )
    shown = page(
        ModelReport(
            version="v1", active=True, created=None, heads={FIELD: report}, gate=said, job_id=None
        ),
        lambda doc_id: None,
    )
    assert "cannot be read" not in shown
    assert "micro f1" in shown


def test_a_stray_list_is_left_out() -> None:
    single = [Document(id=f"s{i}", text=f"x {i}", labels={FIELD: "a"}) for i in range(20)]
    lists = listed()[:3]
    few = training_set.labelled(iter([*single, lists[0]]), FIELD)
    assert (len(few.documents), few.lists, few.multilabel) == (20, 1, False)
    many = training_set.labelled(iter([*single, *lists]), FIELD)
    assert (len(many.documents), many.lists, many.multilabel) == (23, 0, True)


def test_scores_are_independent_and_labels_are_those_over_the_threshold(
    client: TestClient,
) -> None:
    item = classify(client)
    scores = {s["label"]: s["score"] for s in item["scores"]}
    assert set(item["labels"]) == {"fruit", "tool"}
    assert scores["fruit"] + scores["tool"] > 1.1
    assert item["calibrated"]
    assert item["citations"][0]["label"]
    answer = client.post("/predict", json={"task": "classification", "input": BOTH, "field": FIELD})
    body = PredictResponse.model_validate(answer.json()).model_dump()
    assert set(body["data"][0]["output"]["labels"]) == {"fruit", "tool"}
    off = classify(client, retrieval={"mode": "off"})
    assert off["labels"]
    assert off["citations"] == []
    only = classify(client, labels=["music", "tool"])
    assert only["labels"] == ["tool"]
    assert {s["label"]: s["score"] for s in only["scores"]}["tool"] == pytest.approx(
        scores["tool"], abs=1e-6
    )


def test_influence_and_ablation_of_a_set(client: TestClient) -> None:
    item = classify(client, explain=["citations", "influence", "ablation"])
    best = item["scores"][0]
    gone = item["citations"][0]
    without = classify(client, retrieval={"exclude_ids": [c["doc_id"] for c in item["citations"]]})
    assert without["labels"] is not None
    assert abs(gone["influence"]["delta"]) <= 1
    assert best["label"] == item["label"]
    assert item["ablation"]["output"]["labels"] is not None


def test_nothing_over_the_threshold_is_no_answer(client: TestClient) -> None:
    item = classify(client, "and a very number", labels=["music"])
    if item["labels"]:
        item = classify(client, "and a very number", labels=["tool"])
    assert item["labels"] == []
    assert (item["label"], item["abstain_reason"]) == (None, "low_confidence")
    assert item["scores"]


def test_a_label_that_only_the_index_knows(client: TestClient) -> None:
    documents = [
        {"id": f"new-{i}", "text": f"{BOTH} {word}", "labels": {FIELD: ["fruit", "shed"]}}
        for i, word in enumerate(("please", "number", "good", "very", "bad"))
    ]
    assert client.post("/documents", json={"documents": documents}).status_code == 200
    item = classify(client, BOTH + " more")
    assert "shed" in item["labels"]
    for document in documents:
        client.delete(f"/documents/{document['id']}")


def test_a_dataset_with_lists_is_learned(
    trained: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    from app.records.datasets import Datasets

    settings = trained[0]
    upload = Datasets(settings.store_dir).upload(kind=None, name="lists")
    for number, document in enumerate(listed(6), 1):
        upload.add_value(number, {"text": document.text, "labels": document.labels[FIELD]})
    made = upload.finish()
    result = training_job.run(
        params(
            settings,
            field=FIELD,
            _out=str(tmp_path / "d1"),
            _work=str(tmp_path / "work"),
            _dataset=dataset_folder(settings, made.id),
        ),
        Reporter(lambda message: None, lambda: False),
    )
    assert result["data"]["multilabel"]
    assert result["report"]["labels"] == sorted(WORDS)
