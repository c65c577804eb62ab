"""Training in the open: frozen rows, near-duplicates out, the promotion, refusals, resumption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.jobs import evaluate as evaluation_job
from app.jobs import train as training_job
from app.jobs.inputs import reading, work_folder
from app.jobs.job import Job
from app.records.encoders import EncoderChoice
from app.records.feedback import Feedback, FeedbackItem
from app.records.registry import Registry
from app.settings import Settings
from app.training import labels as training_set
from app.training.promotion import decide
from app.worker import JobCancelled, JobRefused, Reporter
from index_data.documents import Document, near_duplicate
from index_data.storage.store import DocumentStore
from model.provenance import trained_on
from tests.app.tiny import documents


def reporter(cancelled: Callable[[], bool] = lambda: False) -> Reporter:
    return Reporter(lambda message: None, cancelled)


def open_store(settings: Settings, rows: list[Document]) -> None:
    store = DocumentStore(settings.store_dir)
    store.upsert(rows).result()
    store.close()


def params(settings: Settings, **given: Any) -> dict[str, Any]:
    wanted = {"task": "classification", "field": "label", "epochs": 1, "batch_size": 16, "k": 8}
    return {
        **reading(settings, settings.encoder),
        **wanted,
        "holdout": 0.25,
        "_out": str(settings.checkpoint_dir / "v1"),
        "_base": None,
        "_work": str(settings.store_dir / "jobs" / "job_1"),
        **given,
    }


@pytest.fixture
def settings(tmp_path: Path, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(tmp_path)


def test_a_run_reports_on_off_none_and_neighbours(settings: Settings) -> None:
    rows = documents(16)
    twin = replace(rows[0], id="twin", text=rows[0].text.upper())
    alone = Document(id="alone", text="one violin and one hammer", labels={"label": "lonely"})
    multilabel = Document(id="several", text="a list", labels={"label": ["fruit", "tool"]})
    open_store(settings, [*rows, twin, alone, multilabel])
    result = training_job.run(params(settings), reporter())
    metrics = result["report"]["metrics"]
    assert {"on", "off", "none", "neighbours"} <= metrics.keys()
    shown = result["report"]["diagnosis"]
    held = result["report"]["held_out"]
    assert sum(count for _, _, count in shown["confusion"]) == held
    assert sum(b["rows"] for b in shown["reliability"]) == held
    right = sum(count for true, said, count in shown["confusion"] if true == said)
    assert right / held == pytest.approx(metrics["on"]["accuracy"])
    assert len(shown["worst"]) == min(20, held - right)
    for mistake in shown["worst"]:
        assert mistake["truth"] != mistake["said"]
        assert all(cited["doc_id"] for cited in mistake["citations"])
    for rival, counts in shown["paired"].items():
        difference = (counts["better"] - counts["worse"]) / counts["rows"]
        assert difference == pytest.approx(metrics["on"]["accuracy"] - metrics[rival]["accuracy"])
    assert result["data"]["rows"] == len(rows) + 2
    assert result["data"]["dropped"] == 2  # each of the twins, once for the other
    warnings = " ".join(result["report"]["warnings"])
    assert "lonely" in warnings
    assert "list of labels" in warnings

    info, frozen, _ = training_set.load(settings.store_dir / "jobs" / "job_1")
    assert info.k == 8
    by_text = {row.text: row for row in frozen}
    assert len(by_text[rows[0].text].hits) == 8
    for row in frozen:
        assert not any(near_duplicate(row.text, hit.text) for hit in row.hits)
        assert all(hit.vector is None or np.isfinite(hit.vector).all() for hit in row.hits)

    first = Path(params(settings)["_out"])
    assert all(trained_on(first, document.id) for document in [*rows, twin, alone])
    assert trained_on(first, "nobody") is False

    again = training_job.run(
        params(settings, _out=str(settings.checkpoint_dir / "v2"), _base=params(settings)["_out"]),
        reporter(),
    )
    assert "previous" in again["report"]["metrics"]

    found = evaluation_job.run(
        {
            **params(settings),
            "_checkpoint": params(settings)["_out"],
            "_version": "v1",
            "held_out": True,
            "limit": None,
        },
        reporter(),
    )
    assert found["evaluated_on"] == "held-out"
    assert found["rows"] == result["report"]["held_out"]
    for points in (found["abstention"]["on"]["confidence"], found["abstention"]["on"]["support"]):
        assert points[0]["coverage"] == 1.0
        assert points[0]["accuracy"] == pytest.approx(found["metrics"]["on"]["accuracy"])
    # The frozen rows have other numbers of hits, but closed the book is the same book.
    assert found["metrics"]["off"]["accuracy"] == pytest.approx(metrics["off"]["accuracy"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "No document has a label"),
        ([Document(id="a", text="x y")], "No document has a label"),
        ([Document(id=str(i), text=f"x {i}", labels={"label": "one"}) for i in range(3)], "same"),
    ],
)
def test_nothing_to_learn_from_is_refused(
    settings: Settings, rows: list[Document], said: str
) -> None:
    open_store(settings, rows)
    with pytest.raises(JobRefused, match=said):
        training_job.run(params(settings), reporter())
    assert not (settings.checkpoint_dir / "v1").exists()


def test_a_cancelled_run_keeps_its_rows_for_resuming(settings: Settings) -> None:
    open_store(settings, documents(8))
    stages: list[str] = []

    def cancelled() -> bool:
        return "train" in stages

    first = Reporter(lambda message: stages.append(message["stage"]), cancelled)
    with pytest.raises(JobCancelled):
        training_job.run(params(settings, epochs=4), first)
    work = settings.store_dir / "jobs" / "job_1"
    frozen = (work / "rows.jsonl").read_bytes()
    stages.clear()
    resumed = Reporter(lambda message: stages.append(message["stage"]), lambda: False)
    training_job.run(params(settings, epochs=4), resumed)
    assert "retrieve" not in stages
    assert (work / "rows.jsonl").read_bytes() == frozen
    assert (settings.checkpoint_dir / "v1" / "manifest.json").is_file()


def measured(rows: int, better: int, worse: int, *, first: bool = False) -> dict[str, Any]:
    """As much of a report as the promotion reads, over a baseline that has 60 % right."""
    rival = "neighbours" if first else "previous"
    accuracy = 0.6 + (better - worse) / max(rows, 1)
    return {
        "metrics": {"on": {"accuracy": accuracy}, rival: {"accuracy": 0.6}},
        "diagnosis": {"paired": {rival: {"rows": rows, "better": better, "worse": worse}}},
        "evaluated_on": "held-out",
    }


@pytest.mark.parametrize(
    ("report", "margin", "better"),
    [
        (measured(200, 12, 2), 0.0, True),
        (measured(200, 4, 3), 0.0, False),  # better, but that may be chance
        (measured(200, 3, 3), 0.0, False),
        (measured(200, 0, 0), 0.0, False),
        (measured(200, 2, 12), 0.0, False),
        (measured(200, 3, 4), 0.05, True),
        (measured(200, 2, 12), 0.05, False),
        (measured(200, 0, 0, first=True), 0.0, True),
        (measured(200, 4, 3, first=True), 0.0, True),
        (measured(200, 3, 4, first=True), 0.0, False),
        (measured(200, 3, 4, first=True), 0.01, True),
        (measured(0, 0, 0), 0.0, False),
    ],
)
def test_the_promotion(report: dict[str, Any], margin: float, better: bool) -> None:
    said = decide(report, "if_better", margin)
    assert said["activate"] is better
    assert decide(report, "always", margin)["activate"]
    assert not decide(report, "never", margin)["activate"]
    assert said["reason"]
    assert said["lower_90"] <= said["difference"]


@pytest.mark.parametrize(
    ("held_out", "feedback", "better"),
    [
        ((200, 4, 3), (60, 30, 1), True),  # what alone may be chance, feedback decides
        ((200, 3, 4), (60, 30, 1), False),  # worse on held-out rows
        ((200, 12, 2), (60, 1, 30), False),
        ((0, 0, 0), (60, 30, 1), False),
    ],
)
def test_recorded_feedback_counts_beside_held_out_rows(
    held_out: tuple[int, int, int], feedback: tuple[int, int, int], better: bool
) -> None:
    report = measured(*held_out)
    counts = dict(zip(("rows", "better", "worse"), feedback, strict=True))
    report["diagnosis"]["feedback"] = {"paired": {"previous": counts}}
    said = decide(report, "if_better")
    assert said["activate"] is better, said
    assert said["feedback"] == counts
    assert said["rows"] == said["held_out"]["rows"] + 60
    assert "60 of them recorded feedback" in said["reason"]


def test_feedback_is_measured_on_and_never_trained_on(settings: Settings) -> None:
    rows = documents(16)
    open_store(settings, rows)
    store = DocumentStore(settings.store_dir)
    kept = Feedback(store)
    new = "tell violin about hammer and melon once more"
    for text, label, field in (
        (rows[0].text.upper(), "music", "label"),  # a training row
        (rows[1].text + ".", "music", "label"),  # nearly one
        (new, "tool", "label"),
        (new, "music", "label"),  # the newest of a text counts
        ("a label that nobody has learned", "unheard", "label"),
        ("of another field", "good", "mood"),
        ("wrong, but nobody says what is right", None, "label"),
    ):
        feedback_item = FeedbackItem(
            text=text,
            field=field,
            label=label,
            correct=False,
            apply="record",
            predicted=None,
            prediction_id=None,
            index=0,
        )
        kept.record(feedback_item).result()
    store.close()
    result = training_job.run(params(settings), reporter())
    _, _, said = training_set.load(settings.store_dir / "jobs" / "job_1")
    assert {row.text: row.label for row in said}[new] == "music"
    assert len(said) == 2
    assert result["report"]["rows"] == len(rows)
    shown = result["report"]["diagnosis"]["feedback"]
    assert shown["rows"] == 1
    right = shown["accuracy"]
    counts = shown["paired"]["neighbours"]
    assert right["on"] - right["neighbours"] == counts["better"] - counts["worse"]
    assert decide(result["report"], "if_better")["feedback"] == counts
    again = training_job.run(
        params(settings, _out=str(settings.checkpoint_dir / "v2"), _base=params(settings)["_out"]),
        reporter(),
    )
    assert again["report"]["diagnosis"]["feedback"]["paired"]["previous"]["rows"] == 1


def test_only_the_newest_unfinished_work_is_kept(settings: Settings) -> None:
    def job(number: int, state: Any) -> Job:
        given = {"version": f"v{number}"}
        return Job(f"job_{number}", "train", state, given, None, None, None, float(number))

    jobs = [job(0, "succeeded"), *(job(n, "interrupted") for n in range(1, 6))]
    for entry in jobs:
        work_folder(settings, entry.id).mkdir(parents=True)
        (settings.checkpoint_dir / f".{entry.params['version']}.training").mkdir(parents=True)
    training_job.sweep(settings, jobs)
    left = {path.name for path in (settings.store_dir / "jobs").iterdir()}
    assert left == {"job_3", "job_4", "job_5"}
    assert {p.name for p in settings.checkpoint_dir.iterdir()} == {
        ".v3.training",
        ".v4.training",
        ".v5.training",
    }


def test_a_base_that_is_not_there_is_refused_before_the_work(settings: Settings) -> None:
    registry = Registry(settings.checkpoint_dir)
    store = DocumentStore(settings.store_dir)
    encoders = EncoderChoice(store, settings.encoder)
    store.close()
    kind = training_job.kind(settings, registry, encoders, lambda version: None)
    given = {"base": "nothing", "version": "v1"}
    job = Job("job_1", "train", "running", given, None, None, None, 0.0)
    with pytest.raises(Exception, match="no checkpoint"):
        kind.prepare(job)
