"""Uploading training data: every shape, every refusal, nothing lost, nothing half there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.records.dataset_rows import kind_of, rows_of
from app.records.datasets import DatasetBroken, Datasets, load_rows
from index_data.documents import InvalidDocument
from tests.app.conftest import serving, state
from tests.app.tiny import documents

NDJSON = {"content-type": "application/x-ndjson"}
CONTEXT = "Every kettle has a warranty of two years."
ANSWER = {"text": "two years", "start": 31}
HERON = "The Heron 43 came"


def ask(**given: Any) -> dict[str, Any]:
    return {"question": "How long?", "context": CONTEXT, "answers": [ANSWER], **given}


def spans(*places: tuple[int, int], **given: Any) -> dict[str, Any]:
    found = [{"start": s, "end": e, "type": "PRODUCT"} for s, e in places]
    return {"text": HERON, "entities": found, **given}


@pytest.mark.parametrize(
    ("raw", "pointer", "said"),
    [
        ([], "", "JSON object"),
        ({}, "", "none of question"),
        (ask(answers=[{"text": "two years", "start": 30}]), "/answers/0/start", "another text"),
        (ask(answers=[{"text": "two years", "start": -1}]), "/answers/0/start", "0 or more"),
        (ask(answers=[{"text": "", "start": 0}]), "/answers/0/text", "empty"),
        (ask(answers=None), "/answers", "list"),
        (ask(question=" "), "/question", "empty"),
        (ask(more=1), "/more", "unknown field"),
        (spans((4, 12), (8, 14)), "/entities/1", "overlaps entity 0"),
        (spans((4, 99)), "/entities/0", "17 characters"),
        (spans((4, 4)), "/entities/0", "in order"),
        (spans((True, 4)), "/entities/0", "in order"),
        (spans((4, 12), text=""), "/text", "empty"),
        (
            spans() | {"entities": [{"start": 4, "end": 12, "type": "P", "text": "Heron"}]},
            "/entities/0/text",
            "differs",
        ),
        ({"tokens": ["a"], "tags": []}, "/tags", "1 tokens and 0 tags"),
        ({"tokens": [], "tags": []}, "/tags", "0 tokens"),
        ({"tokens": ["a"], "tags": ["B-"]}, "/tags/0", "O, or B-"),
        ({"tokens": ["a"], "tags": [3]}, "/tags/0", "O, or B-"),
        ({"tokens": ["a", "\x00"], "tags": ["O", "O"]}, "/tokens/1", "control"),
        ({"text": "x", "label": 1}, "/label", "string"),
        ({"text": "x", "labels": []}, "/label", "something in them"),
        ({"text": "\ud800", "label": "a"}, "/text", "surrogate"),
        ({"data": []}, "/data", "something in it"),
    ],
)
def test_a_bad_row_is_named_with_its_place(raw: Any, pointer: str, said: str) -> None:
    try:
        [(_, found)] = list(rows_of(raw, kind_of(raw)))
    except InvalidDocument as error:
        found = error
    assert isinstance(found, InvalidDocument)
    assert found.pointer == pointer
    assert said in found.detail


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        (["B-A", "I-A", "B-A", "O"], [(0, 3, "A"), (4, 5, "A")]),
        (["I-A", "I-A", "B-A", "O"], [(0, 3, "A"), (4, 5, "A")]),  # IOB1
        (["O", "I-A", "I-B", "I-B"], [(2, 3, "A"), (4, 7, "B")]),
        (["O", "O", "O", "O"], []),
    ],
)
def test_tags_are_read_as_iob2_and_iob1(tags: list[str], entities: list[Any]) -> None:
    [(_, row)] = rows_of({"tokens": ["a", "b", "c", "d"], "tags": tags}, "conll")
    assert isinstance(row, dict)
    assert row["text"] == "a b c d"
    assert [(e["start"], e["end"], e["type"]) for e in row["entities"]] == entities


def test_chinese_characters_are_joined_without_spaces() -> None:
    raw = {
        "tokens": ["在", "北", "京", "IBM", "上", "班"],
        "tags": ["O", "B-L", "I-L", "B-O", "O", "O"],
    }
    [(_, row)] = rows_of(raw, "conll")
    assert isinstance(row, dict)
    found = [row["text"][e["start"] : e["end"]] for e in row["entities"]]
    assert found == ["北京", "IBM"]


def test_the_squad_file_is_taken_apart() -> None:
    good = {
        "id": "q1",
        "question": "How long?",
        "answers": [{"text": "two years", "answer_start": 31}],
    }
    none = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}
    bad = {"id": "q3", "question": "Why?", "answers": [{"text": "no", "answer_start": 0}]}
    file = {
        "data": [{"title": "A_K", "paragraphs": [{"context": CONTEXT, "qas": [good, none, bad]}]}]
    }
    found = list(rows_of(file, "squad"))
    assert found[0][1] == {"id": "q1", "title": "A K", **ask()}
    assert found[1][1] == {"id": "q2", "title": "A K", **ask(question="Why?", answers=[])}
    assert isinstance(found[2][1], InvalidDocument)
    assert found[2][1].pointer == "/data/0/paragraphs/0/qas/2/answers/0/start"


def test_lines_are_stored_and_bad_ones_named(client: TestClient) -> None:
    lines = [
        json.dumps({"text": "late parcel", "label": "delivery"}),
        "{nonsense",
        "",
        json.dumps({"text": "", "label": "delivery"}),
        json.dumps({"tokens": ["a"], "tags": ["O"]}),
        json.dumps({"text": "thanks", "labels": ["praise", "short"]}),
    ]
    answer = client.post("/admin/datasets?name=mine", content="\n".join(lines), headers=NDJSON)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert [r["line"] for r in made["rejected"]] == [2, 4, 5]
    assert (made["rows"], made["kind"], made["task"]) == (2, "classification", "classification")
    assert made["labels"] == {"delivery": 1, "praise": 1, "short": 1}
    place = answer.headers["location"]
    assert client.get(place).json()["sha256"] == made["sha256"]
    again = client.post("/admin/datasets", content="\n".join(lines), headers=NDJSON).json()
    assert again["id"] == made["id"]
    assert [d["id"] for d in client.get("/admin/datasets").json()["datasets"]] == [made["id"]]
    folder = state(client).datasets.folder
    assert len(load_rows(folder / made["id"])) == 2
    assert client.delete(place).json() == {"id": made["id"], "deleted": True}
    assert client.get(place).status_code == 404
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize(
    ("content", "query"),
    [("", ""), ("\n\n", ""), ("[1]\n{}", ""), ('{"text": "a", "label": "b"}', "?kind=conll")],
)
def test_an_upload_without_a_row_leaves_nothing(
    client: TestClient, content: str, query: str
) -> None:
    answer = client.post(f"/admin/datasets{query}", content=content, headers=NDJSON)
    assert answer.status_code == 422
    assert len(answer.content) < 4096
    assert [*state(client).datasets.folder.iterdir()] == []
    assert client.get("/admin/datasets/../documents").status_code == 404
    assert client.get("/admin/datasets/ds_nothing").status_code == 404


def test_a_set_that_was_changed_is_not_read(tmp_path: Path) -> None:
    sets = Datasets(tmp_path)
    upload = sets.upload(kind=None, name="")
    upload.add(1, b'{"text": "a", "label": "b"}')
    made = upload.finish()
    folder = sets.folder / made.id
    (folder / "rows.jsonl").write_bytes(b'{"text": "x", "labels": {"label": "b"}}\n')
    with pytest.raises(DatasetBroken, match="sha256"):
        load_rows(folder)
    (folder / "dataset.json").write_text("{")
    assert sets.all() == []
    left = sets.folder / ".1.writing"
    left.mkdir()
    Datasets(tmp_path)
    assert not left.exists()


def finished(client: TestClient, answer: Any) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    job = answer.json()
    while job["state"] in ("queued", "running"):
        time.sleep(0.1)
        job = client.get(f"/admin/jobs/{job['id']}").json()
    assert job["state"] == "succeeded", job
    found: dict[str, Any] = job["result"]
    return found


def heads(folder: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in folder.glob("heads/*/model.safetensors")}


@pytest.mark.slow
def test_a_head_is_learned_from_a_set_and_the_others_stay(
    tmp_path: Path, settings_for: Any
) -> None:
    """Two fields from two sets, over an index that has neither: each leaves the other's bits."""
    with serving(settings_for(tmp_path)) as client:
        rows = [{"text": d.text, "label": d.labels["label"]} for d in documents(14)]
        lines = "\n".join(json.dumps(row) for row in rows)
        made = client.post("/admin/datasets", content=lines, headers=NDJSON).json()
        question = client.post("/admin/datasets", json={"rows": [ask()]}).json()
        wrong = client.post("/admin/train", json={"dataset": question["id"]})
        assert wrong.status_code == 422
        assert wrong.json()["errors"][0]["pointer"] == "#/dataset"
        assert client.post("/admin/train", json={"dataset": "ds_" + "0" * 24}).status_code == 404

        wanted = {"dataset": made["id"], "epochs": 1, "batch_size": 16, "activate": "always"}
        first = finished(client, client.post("/admin/train", json={**wanted, "field": "kind"}))
        assert {"on", "off", "none"} <= first["report"]["metrics"].keys()
        assert first["data"]["rows"] == len(rows)
        before = heads(settings_for(tmp_path).checkpoint_dir / first["version"])
        second = finished(client, client.post("/admin/train", json={**wanted, "task": "sentiment"}))
        after = heads(settings_for(tmp_path).checkpoint_dir / second["version"])
        assert {*after} == {"kind", "sentiment"}
        assert after["kind"] == before["kind"]
        said = client.post("/classify", json={"input": "an apple and a pear", "field": "kind"})
        assert said.json()["data"][0]["label"] in ("fruit", "tool", "music")
