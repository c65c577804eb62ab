"""Training answers and entities: from sets and from the index, over HTTP and in the job itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from app.jobs import train as training_job
from app.jobs.inputs import dataset_folder, reading
from app.records.datasets import Datasets
from app.records.feedback import Feedback, FeedbackItem
from app.settings import Settings
from app.training.frozen_rows import FEEDBACK, PASSAGES, ROWS, lines, read_info
from app.training.promotion import decide
from app.training.qa import is_same
from app.worker import JobCancelled, JobRefused, Reporter
from index_data.documents import Document, near_duplicate
from index_data.storage.store import DocumentStore
from model.checkpoint import load_heads
from model.encoder.encoder import Encoder
from model.metrics import Compared
from model.provenance import trained_on
from tests.app.tiny import WORDS
from tests.app.tiny_ner import sentences
from tests.app.tiny_qa import TOOL, rows

NDJSON = {"content-type": "application/x-ndjson"}
NO_SET = "ds_" + "0" * 24


def questions(count: int = 60) -> list[dict[str, Any]]:
    """The questions of `tiny_qa` in SQuAD's shape."""
    return [
        {
            "id": f"q{row.id}",
            "question": row.question,
            "context": row.context,
            "answers": [{"text": t, "start": s} for t, s in row.answers],
        }
        for row in rows()[:count]
    ]


def reporter(
    stages: list[str] | None = None, cancelled: Callable[[], bool] = lambda: False
) -> Reporter:
    heard = [] if stages is None else stages
    return Reporter(lambda message: heard.append(message["stage"]), cancelled)


def stored(settings: Settings, given: list[Document]) -> None:
    store = DocumentStore(settings.store_dir)
    if given:
        store.upsert(given).result()
    store.close()


def uploaded(settings: Settings, given: list[dict[str, Any]]) -> str:
    upload = Datasets(settings.store_dir).upload(kind=None, name="")
    for number, row in enumerate(given, 1):
        upload.add_value(number, row)
    assert not upload.rejected
    return str(dataset_folder(settings, upload.finish().id))


def params(settings: Settings, task: str, **given: Any) -> dict[str, Any]:
    return {
        **reading(settings, settings.encoder),
        "task": task,
        "field": task,
        "epochs": 1,
        "batch_size": 8,
        "k": 4,
        "holdout": 0.25,
        "_out": str(settings.checkpoint_dir / "v1"),
        "_base": None,
        "_work": str(settings.store_dir / "jobs" / "job_1"),
        **given,
    }


@pytest.fixture
def settings(tmp_path: Path, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(tmp_path)


def marked(count: int = 40) -> list[Document]:
    """Documents with entities."""
    return [
        Document(id=f"s{i}", text=row["text"], metadata={"entities": row["entities"]})
        for i, row in enumerate(sentences(count))
    ]


def tensors(folder: Path) -> dict[str, bytes]:
    """The weights of every head of a checkpoint, as they lie on the disk."""
    return {p.parent.name: p.read_bytes() for p in folder.glob("heads/*/model.safetensors")}


def test_questions_are_learned_beside_what_is_found(
    settings: Settings, encoder: Encoder, qa_head: Path
) -> None:
    asked = questions()
    for row in asked:  # the fruit beside the tool is what finds the text
        fruit = next(word for word in row["context"].split() if word in WORDS["fruit"])
        row["question"] = f"{TOOL} beside {fruit}"
    own = [Document(id=f"d{i}", text=row["context"]) for i, row in enumerate(asked[:20])]
    again = Document(id="again", text=asked[0]["question"].upper())
    nearly = Document(id="nearly", text=f"{asked[0]['context'].upper()}!")
    stored(settings, [*own, again, nearly])
    none = {"question": "why", "context": "very good", "answers": []}
    folder = uploaded(settings, [*asked, none])
    before = tensors(qa_head)
    given = params(settings, "qa", _dataset=folder, _base=str(qa_head), base=None)
    result = training_job.run(given, reporter())
    report = result["report"]
    assert {"given", "on", "off", "previous"} <= report["metrics"].keys()
    assert (report["rows"], result["data"]["left_out"]) == (60, 1)
    assert "1 questions without an answer" in " ".join(report["warnings"])
    work = Path(given["_work"])
    passages = [*lines(work / PASSAGES)]
    found = {
        row["id"]: {passages[number]["doc_id"] for number, _ in row["hits"]}
        for row in lines(work / ROWS)
    }
    assert {"again", "nearly"}.isdisjoint(found["q0"])
    assert 0 < len(found["q0"]) <= 4
    first = Path(given["_out"])
    assert all(trained_on(first, name) for name in found["q0"])
    # One epoch is no match for the head that serves.
    said = decide(report, "if_better")
    assert (said["against"], said["metric"], said["activate"]) == ("previous", "f1", False)
    assert said["f1"] < said["rival_f1"]
    assert decide(report, "always")["activate"]

    # Another head beside it: not a bit of the first one changes.
    marks = uploaded(settings, sentences(40))
    more = params(
        settings, "ner", _dataset=marks, _base=str(first), base=None,
        _out=str(settings.checkpoint_dir / "v2"), _work=str(settings.store_dir / "jobs" / "job_2"),
    )  # fmt: skip
    training_job.run(more, reporter())
    after = tensors(settings.checkpoint_dir / "v2")
    assert {*after} == {"qa", "ner"}
    assert after["qa"] == tensors(first)["qa"] != before["qa"]


def test_the_question_again_is_no_evidence_for_it() -> None:
    context = "every kettle has a warranty of two full years from the day of purchase"
    question = "how long is the warranty of a kettle"

    def same(other: str) -> bool:
        return is_same(question, context, Document("d", other))

    assert same(f"{question.title()}?")
    assert same(f"{context.upper()}!")
    assert not same(context)  # the very text is what there is to find
    assert not same(f"Before. {context} After.")
    assert not same("the courier left the package in the rain")


def test_entities_are_learned_from_the_documents_that_carry_them(settings: Settings) -> None:
    there = marked()
    twin = Document(id="twin", text=there[0].text.upper(), metadata=there[0].metadata)
    plain = [Document(id=f"p{i}", text=f"{d.text} more") for i, d in enumerate(there[:5])]
    empty = Document(id="empty", text="nothing to see", metadata={"entities": []})
    stored(settings, [*there, twin, *plain, empty])
    given = params(settings, "ner", k=8)
    result = training_job.run(given, reporter())
    report = result["report"]
    assert {"on", "off", "none", "neighbours"} <= report["metrics"].keys()
    assert report["types"] == ["MUSIC", "TOOL"]
    assert report["rows"] == len(there) + 2
    assert {*result["data"]["labels"]} == {"MUSIC", "TOOL"}
    work = Path(given["_work"])
    passages = [*lines(work / PASSAGES)]
    assert {p["doc_id"] for p in passages} <= {d.id for d in [*there, twin]}
    for row in lines(work / ROWS):
        for number, _ in row["hits"]:
            assert not near_duplicate(row["text"], passages[number]["text"])
    assert trained_on(Path(given["_out"]), "s0")
    said = decide(report, "if_better")
    assert (said["against"], said["metric"]) == ("neighbours", "f1")
    assert said["activate"] is (said["difference"] > 0)
    assert said["f1"] == pytest.approx(report["metrics"]["on"]["f1"])

    # The next set lacks a type: it is named, and the head that knew it is not touched.
    tools = [r for r in sentences(60, seed=3) if {e["type"] for e in r["entities"]} == {"TOOL"}]
    kept = tensors(Path(given["_out"]))
    again = training_job.run(
        params(
            settings, "ner", _dataset=uploaded(settings, tools), _base=given["_out"], base=None,
            _out=str(settings.checkpoint_dir / "v2"),
            _work=str(settings.store_dir / "jobs" / "job_2"),
        ),
        reporter(),
    )  # fmt: skip
    assert any("no row carries: MUSIC" in w for w in again["report"]["warnings"])
    assert "previous" in again["report"]["metrics"]
    assert tensors(Path(given["_out"])) == kept


def feedback_item(text: str, field: str, **said: Any) -> FeedbackItem:
    return FeedbackItem(
        text=text, field=field, label=None, correct=False, apply="record", predicted=None,
        prediction_id=None, index=0, **said,
    )  # fmt: skip


def test_feedback_on_entities_is_measured_on_and_counts_in_the_promotion(
    settings: Settings,
) -> None:
    stored(settings, marked(40))
    train, new = marked(40), sentences(43, seed=8)[-3:]
    store = DocumentStore(settings.store_dir)
    kept = Feedback(store)
    for one in (
        feedback_item(train[0].text.upper(), "ner", entities=[]),  # a training row
        feedback_item(f"{train[1].text}.", "ner", entities=[]),  # nearly one
        feedback_item(new[0]["text"], "ner", entities=[]),
        *(feedback_item(row["text"], "ner", entities=row["entities"]) for row in new),
        feedback_item("no one said what is right", "ner"),
    ):
        kept.record(one).result()
    store.close()
    given = params(settings, "ner")
    report = training_job.run(given, reporter())["report"]
    assert report["rows"] == 40
    asked = [*lines(Path(given["_work"]) / FEEDBACK)]
    assert [row["text"] for row in asked] == [row["text"] for row in new]
    spans = [[(e["start"], e["end"], e["type"]) for e in row["entities"]] for row in new]
    assert [[tuple(e) for e in row["entities"]] for row in asked] == spans  # the newest counts
    said = decide(report, "if_better")
    held = report["diagnosis"]["paired"]["neighbours"]["rows"]
    assert (said["held_out"]["rows"], said["feedback"]["rows"]) == (held, 3)
    assert said["rows"] == held + 3
    assert "3 of them recorded feedback" in said["reason"]


def test_feedback_on_answers_is_measured_on_and_counts_in_the_promotion(
    settings: Settings, qa_head: Path
) -> None:
    long = "it was said before. " * 60  # several passages: the one with the answer is read
    stored(settings, [Document(id="long", text=f"{long}Take a hammer and more of it.")])
    answer: dict[str, Any] = {
        "text": "hammer",
        "doc_id": "long",
        "start": len(long) + 7,
        "end": len(long) + 13,
    }
    store = DocumentStore(settings.store_dir)
    kept = Feedback(store)
    for question, said in (
        (questions(1)[0]["question"], answer),  # a question that is trained on
        ("which tool is it", answer | {"text": "chisel"}),
        ("which tool is it", answer | {"start": None, "end": None}),  # the newest counts
        ("where is it", answer | {"text": "saw"}),  # its document does not hold it
        ("what of a text that is gone", answer | {"doc_id": "gone"}),
        ("what has no answer", {"text": "", "doc_id": None, "start": None, "end": None}),
    ):
        kept.record(feedback_item(question, "qa", answer=said)).result()
    store.close()
    given = params(
        settings, "qa", _dataset=uploaded(settings, questions(30)), _base=str(qa_head), base=None,
        _passage_words=20,
    )  # fmt: skip
    report = training_job.run(given, reporter())["report"]
    (asked,) = lines(Path(given["_work"]) / FEEDBACK)
    assert asked["question"] == "which tool is it"
    assert len(asked["context"].split()) <= 20
    (place,) = asked["answers"]
    assert asked["context"][place["start"] :].startswith("hammer")
    verdict = decide(report, "if_better")
    assert (verdict["against"], verdict["feedback"]["rows"]) == ("previous", 1)
    assert verdict["rows"] == verdict["held_out"]["rows"] + 1


@pytest.mark.parametrize(("task", "given"), [("qa", questions(30)), ("ner", sentences(30))])
def test_what_was_cancelled_goes_on_with_the_same_rows(
    settings: Settings, task: str, given: list[dict[str, Any]]
) -> None:
    stored(settings, [])
    folder = uploaded(settings, given)
    wanted = params(settings, task, _dataset=folder, epochs=3)
    stages: list[str] = []
    with pytest.raises(JobCancelled):
        training_job.run(wanted, reporter(stages, lambda: stages.count("train") > 0))
    frozen = (Path(wanted["_work"]) / ROWS).read_bytes()
    stages.clear()
    training_job.run(wanted, reporter(stages))
    assert "retrieve" not in stages
    assert (Path(wanted["_work"]) / ROWS).read_bytes() == frozen
    assert read_info(Path(wanted["_work"])).rows == 30
    assert {*load_heads(Path(wanted["_out"]))[1]} == {task}


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        ("qa", [*questions(3), *({**q, "answers": []} for q in questions(20)[5:])], "3 of the 18"),
        ("ner", sentences(5), "5 rows"),
        ("ner", None, "0 texts"),
    ],
)
def test_too_little_to_learn_from_is_refused(
    settings: Settings, task: str, given: list[dict[str, Any]] | None, said: str
) -> None:
    stored(settings, [])
    folder = None if given is None else uploaded(settings, given)
    with pytest.raises(JobRefused, match=f"{said}.*at least 8 are needed"):
        training_job.run(params(settings, task, _dataset=folder), reporter())
    assert not (settings.checkpoint_dir / "v1").exists()


def compared(difference: float, lower: float, *, rows: int = 100) -> dict[str, Any]:
    return asdict(Compared("f1", rows, 10, 5, 0.5 + difference, 0.5, difference, lower))


@pytest.mark.parametrize(
    ("rival", "test", "margin", "where", "better"),
    [
        ("previous", compared(0.1, 0.02), 0.0, "held-out", True),
        ("previous", compared(0.1, -0.02), 0.0, "held-out", False),
        ("previous", compared(0.1, -0.02), 0.05, "held-out", True),
        ("previous", compared(-0.1, -0.2), 0.05, "held-out", False),
        ("neighbours", compared(0.01, -0.2), 0.0, "held-out", True),
        ("neighbours", compared(0.0, 0.0), 0.0, "held-out", False),
        ("off", compared(0.0, 0.0), 0.0, "held-out", False),
        ("off", compared(0.5, 0.4), 0.0, "held-out", True),
        ("off", compared(0.5, 0.4), 0.0, "training", False),  # it knows these rows by heart
    ],
)
def test_the_gate_goes_by_the_tasks_own_figure(
    rival: str, test: dict[str, Any], margin: float, where: str, better: bool
) -> None:
    report = {"diagnosis": {"paired": {rival: test}}, "metrics": {}, "evaluated_on": where}
    said = decide(report, "if_better", margin)
    assert said["activate"] is better, said
    assert (said["metric"], said["rival_f1"], said["against"]) == ("f1", 0.5, rival)
    assert "F1" in said["reason"]


@pytest.mark.parametrize(
    ("held_out", "feedback", "together", "better"),
    [
        (compared(0.01, -0.02), compared(0.2, 0.1), compared(0.1, 0.02), True),
        (compared(-0.01, -0.02), compared(0.2, 0.1), compared(0.1, 0.02), False),
        (compared(0.1, 0.02), compared(-0.3, -0.4), compared(-0.1, -0.2), False),
    ],
)
def test_feedback_counts_beside_held_out_rows_by_the_tasks_own_figure(
    held_out: dict[str, Any], feedback: dict[str, Any], together: dict[str, Any], better: bool
) -> None:
    said = {"paired": {"previous": feedback}, "together": {"previous": together | {"rows": 200}}}
    diagnosis = {"paired": {"previous": held_out}, "feedback": said}
    report = {"diagnosis": diagnosis, "metrics": {}, "evaluated_on": "held-out"}
    decision = decide(report, "if_better")
    assert decision["activate"] is better, decision
    assert (decision["rows"], decision["feedback"]) == (200, feedback)
    assert decision["f1"] == held_out["ours"]  # the figure told is that of held-out rows
    assert "100 of them recorded feedback" in decision["reason"]
