"""Pre-training as a job: what it learns from, stopping and going on, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.inference.language_models import SHIPPED_LANGUAGE, LanguageModels
from app.jobs import pretrain as pretrain_job
from app.jobs.inputs import WORK, work_folder
from app.records.datasets import Datasets
from app.settings import Settings
from app.worker import JobCancelled, JobRefused, Reporter
from index_data.documents import Document
from index_data.storage.store import DocumentStore
from model.lm.checkpoint import load_lm, save_lm
from model.provenance import trained_on
from tests.app.conftest import serving, state
from tests.app.training.test_pretrain import prose

NDJSON = {"content-type": "application/x-ndjson"}
STEP = 256
SMALL = {
    "tokens": 4000, "batch_tokens": STEP, "window": 128, "vocab": 320, "dim": 16, "heads": 2,
    "layers": 2, "held_out": 0.3,
}  # fmt: skip
PATIENCE_S = 300.0


def texts(count: int = 30, words: int = 150) -> list[dict[str, Any]]:
    return [{"id": f"t{i}", "title": f"T{i}", "text": prose(i % 3, words, i)} for i in range(count)]


def params(settings: Settings, **given: Any) -> dict[str, Any]:
    return {
        "dataset": None,
        "setting": None,
        "k": 2,
        "lr": None,
        "optimizer": "adamw",
        "seed": 0,
        "version": "v1",
        **SMALL,
        "_store": str(settings.store_dir),
        "_device": "cpu",
        "_dataset": None,
        "_start": None,
        "_out": str(settings.checkpoint_dir / "language" / "v1"),
        "_work": str(work_folder(settings, "job_1")),
        **given,
    }


def reporter(stages: list[str], *, until: str = "never") -> Reporter:
    """Notes the stages; the job is cancelled when it reaches one of them."""
    return Reporter(lambda message: stages.append(message["stage"]), lambda: until in stages)


@pytest.fixture
def settings(tmp_path: Path, settings_for: Callable[..., Settings]) -> Settings:
    made = settings_for(tmp_path)
    store = DocumentStore(made.store_dir)
    store.upsert([Document(row["id"], row["text"], title=row["title"]) for row in texts()]).result()
    store.close()
    return made


def test_the_documents_of_the_index_are_learned_from(settings: Settings) -> None:
    told: list[dict[str, Any]] = []
    result = pretrain_job.run(params(settings), Reporter(told.append, lambda: False))
    assert list(dict.fromkeys(message["stage"] for message in told)) == [
        *("read the documents", "read", "learn the tokens", "retrieve", "train", "measure")
    ]
    last = [message for message in told if message["stage"] == "train"][-1]
    assert last["step"] == last["total"] == result["report"]["step"]
    assert last["loss"] > 0
    assert last["eta_s"] == 0
    assert result["report"]["metrics"].keys() == {"documents, off", "documents, on"}
    out = settings.checkpoint_dir / "language" / "v1"
    model, _, report = load_lm(out)
    assert model.config.dim == 16
    losses = [point["loss"] for point in report["curve"] if "loss" in point]
    assert losses[0] > losses[-1]
    assert trained_on(out, "t3") is True
    assert trained_on(out, "another") is False
    # Saved, and the server ended before it was told so: nothing is done again.
    again = pretrain_job.run(params(settings), reporter([]))
    assert again["report"]["metrics"] == result["report"]["metrics"]


def test_a_cancelled_run_keeps_the_text_as_it_stood(settings: Settings) -> None:
    with pytest.raises(JobCancelled):
        pretrain_job.run(params(settings), reporter([], until="train"))
    store = DocumentStore(settings.store_dir)
    store.delete(["t3"]).result()
    store.close()
    stages: list[str] = []
    result = pretrain_job.run(params(settings), reporter(stages))
    assert "retrieve" not in stages
    assert trained_on(settings.checkpoint_dir / "language" / "v1", "t3") is True
    sizes = result["report"]["corpus"]["sizes"]
    assert sum(part["documents"] for part in sizes.values()) == 30


def test_what_is_gone_on_from_is_learned_from_too(settings: Settings) -> None:
    pretrain_job.run(params(settings), reporter([]))
    store = DocumentStore(settings.store_dir)
    store.delete(["t3"]).result()
    store.upsert([Document("new", prose(0, 150, 99))]).result()
    store.close()
    language = settings.checkpoint_dir / "language"

    def gone_on(version: str, start: Path) -> list[bool | None]:
        work = work_folder(settings, f"job_{version}")
        own = {"_out": str(language / version), "_work": str(work), "_start": str(start)}
        result = pretrain_job.run(params(settings, **own), reporter([]))
        before = json.loads((start / "report.json").read_bytes())
        assert result["report"]["before"]["tokens"] == before["tokens"]
        return [trained_on(language / version, document) for document in ("t3", "new", "other")]

    assert gone_on("v2", language / "v1") == [True, True, False]
    save_lm(language / "unknown", *load_lm(language / "v2"))  # without its list of documents
    assert gone_on("v3", language / "unknown") == [None, None, None]
    assert gone_on("v4", SHIPPED_LANGUAGE) == [False, True, False]
    own = [
        json.loads((language / version / "report.json").read_bytes())["tokens"]
        for version in ("v1", "v2", "v3")
    ]
    third = LanguageModels(settings.checkpoint_dir).find("v3")
    assert third is not None
    assert third.tokens == sum(own)


def test_retrieving_can_be_cancelled(settings: Settings) -> None:
    stages: list[str] = []
    with pytest.raises(JobCancelled):
        pretrain_job.run(params(settings), reporter(stages, until="retrieve"))
    assert stages[-1] == "retrieve"


def test_a_set_that_changed_on_the_disk_is_refused(settings: Settings) -> None:
    datasets = Datasets(settings.store_dir)
    upload = datasets.upload(kind="text", name="articles")
    for number, row in enumerate(texts(), 1):
        upload.add_value(number, row)
    folder = datasets.folder / upload.finish().id
    given = params(settings, _dataset=str(folder), setting="own")
    report = pretrain_job.run(given, reporter([]))["report"]
    assert report["corpus"]["settings"] == {"articles": "own"}
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(b"{}")
    with pytest.raises(JobRefused, match="sha256"):
        pretrain_job.run({**given, "_out": f"{folder}/x"}, reporter([]))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"memory": "prefixes"}, "#/memory"),
        ({"copy": 1}, "#/copy"),
        ({"copy": False}, "#/copy"),
        ({"copy_head": True}, "#/copy_head"),
        ({"window": 100}, "#/window"),
        ({"dim": 36, "heads": 8}, "#/heads"),
        ({"dim": 12, "heads": 4}, "#/heads"),
        ({"vocab": 200}, "#/vocab"),
        ({"tokens": 0}, "#/tokens"),
        ({"lr": 0}, "#/lr"),
        ({"k": 17}, "#/k"),
        ({"held_out": 0.95}, "#/held_out"),
        ({"setting": "both"}, "#/setting"),
        ({"dataset": "articles.jsonl"}, "#/dataset"),
        ({"out": "/tmp/x"}, "#/out"),
        ({"start": "no-such-model"}, "#/start"),
        ({"start": "../shipped"}, "#/start"),
        ({"start": "shipped", "dim": 256}, "#/dim"),
        ({"start": "shipped", "copy": True}, "#/copy"),
        ([], "#"),
    ],
)
def test_a_bad_order_is_refused_with_its_place(filled: TestClient, body: Any, pointer: str) -> None:
    answer = filled.post("/admin/pretrain", json=body)
    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


def test_what_there_is_no_text_in_is_refused(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path)) as client:
        answer = client.post("/admin/pretrain", json={})
        assert "no document" in answer.json()["errors"][0]["detail"]
        assert client.post("/admin/pretrain", json={"dataset": "ds_" + "0" * 24}).status_code == 404
        labelled = {"rows": [{"text": "a parcel", "label": "delivery"}]}
        made = client.post("/admin/datasets", json=labelled).json()
        answer = client.post("/admin/pretrain", json={"dataset": made["id"]})
        assert "for the task classification" in answer.json()["errors"][0]["detail"]


def test_texts_are_uploaded_where_their_kind_is_named(client: TestClient) -> None:
    lines = "\n".join(json.dumps(row) for row in [*texts(3), {"title": "no text"}, [1], "text"])
    answer = client.post("/admin/datasets?kind=text&name=articles", content=lines, headers=NDJSON)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["kind"], made["task"], made["rows"], made["labels"]) == ("text", "pretrain", 3, {})
    assert [r["line"] for r in made["rejected"]] == [4, 5, 6]
    # A row that may only have lost its label is not taken for text.
    unnamed = client.post("/admin/datasets", json={"rows": [{"text": "a parcel"}]})
    assert "name the kind" in unnamed.json()["errors"][0]["detail"]
    answer = client.post("/admin/train", json={"dataset": made["id"]})
    assert "(text) are for the task pretrain" in answer.json()["errors"][0]["detail"]


def test_an_erased_document_is_named_with_what_was_learned_from_it(client: TestClient) -> None:
    rows = {"documents": texts()}
    assert client.post("/documents", json=rows).status_code == 200
    settings = state(client).settings
    pretrain_job.run(params(settings), reporter([]))
    stopped = params(
        settings,
        _out=str(settings.checkpoint_dir / "language" / "v2"),
        _work=str(work_folder(settings, "job_2")),
    )
    with pytest.raises(JobCancelled):
        pretrain_job.run(stopped, reporter([], until="train"))
    receipt = client.delete("/documents/t3", params={"erase": True}).json()["receipt"]
    assert "v1" in receipt["checkpoints"]
    assert "job_2" in receipt["training_sets"]
    assert not Path(stopped["_work"]).exists()


def until(client: TestClient, path: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while not done(job := client.get(path).json()):
        assert time.monotonic() < deadline, job
        assert not over(job), job
        time.sleep(0.05)
    found: dict[str, Any] = job
    return found


def over(job: dict[str, Any]) -> bool:
    return job["state"] not in ("queued", "running")


def training(job: dict[str, Any], beyond: int = 0) -> bool:
    progress = job["progress"]
    return bool(progress.get("stage") == "train" and progress["step"] > beyond)


@pytest.mark.slow
def test_a_job_is_cancelled_and_goes_on_as_if_it_had_not_been(client: TestClient) -> None:
    lines = "\n".join(json.dumps(row) for row in texts())
    posted = client.post("/admin/datasets?kind=text&name=articles", content=lines, headers=NDJSON)
    order = {"dataset": posted.json()["id"], **SMALL, "tokens": 1000 * STEP}
    answer = client.post("/admin/pretrain", json=order)
    assert answer.status_code == 202, answer.text
    place = answer.headers["location"]
    running = until(client, place, lambda job: training(job, 210))  # a state is saved every 200
    assert running["progress"]["loss"] > 0
    assert running["progress"]["eta_s"] >= 0
    assert client.post("/classify", json={"input": "a late parcel"}).is_success  # it serves on
    client.post(f"{place}/cancel")
    assert until(client, place, over)["state"] == "cancelled"
    assert not client.get("/admin/models").json()["language_models"]

    again = client.post(f"{place}/resume")
    assert again.status_code == 202
    started = again.json()["progress"]

    def resumed(job: dict[str, Any]) -> bool:
        return training(job) and job["progress"] != started

    assert until(client, place, resumed)["progress"]["step"] > 200
    done = until(client, place, over)
    assert done["state"] == "succeeded", done
    whole = until(client, client.post("/admin/pretrain", json=order).headers["location"], over)
    assert whole["state"] == "succeeded", whole
    results = (done["result"], whole["result"])
    weights = [(Path(r["checkpoint"]) / "model.safetensors").read_bytes() for r in results]
    assert weights[0] == weights[1]
    assert results[0]["report"]["metrics"] == results[1]["report"]["metrics"]

    version = done["result"]["version"]
    listed = client.get("/admin/models").json()["language_models"]
    assert {model["version"] for model in listed} == {r["version"] for r in results}
    report = client.get(f"/admin/models/{version}/report").json()["heads"]["language model"]
    assert report["curve"][-1]["step"] == 999
    page = client.get(f"/admin/models/{version}/report?format=html")
    assert "polyline" in page.text
    assert client.delete(f"/admin/models/{version}").is_success
    assert client.get(f"/admin/models/{version}/report").status_code == 404
    assert client.get("/health/ready").json()["degraded"] == []
    assert not list((state(client).settings.store_dir / WORK).iterdir())
