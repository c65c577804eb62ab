"""Heads whose labels are independent: shares, gate, threshold, training, serving."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import head_folder, load_heads
from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import Memory, Retrieved, make_memory
from model.labels.multilabel import IndependentGate, best_threshold, binary_loss, marks_of
from model.labels.neighbours import plain_vote
from model.labels.prediction import Prediction
from model.metrics import row_f1, set_scores
from model.reader import Reader
from model.training.calibration import Evidence
from model.training.driver import train_head
from model.training.multilabel import MultilabelTraining, fit_multilabel
from model.training.split import Row, plan_rows
from model.training.workspace import TrainingRefused
from tests.model.conftest import FILLERS, TOPICS

LABELS = sorted(TOPICS)


def make_lists(encoder: Encoder, n: int, *, k: int = 6) -> list[Row]:
    """Sentences on one topic or two, each with its nearest others."""
    rng = random.Random(3)
    topics = [rng.sample(LABELS, rng.choice([1, 2])) for _ in range(n)]
    texts = [
        " ".join(rng.sample([w for t in chosen for w in rng.sample(TOPICS[t], 2)], 2 * len(chosen)))
        + f" {rng.choice(FILLERS)} {rng.choice(FILLERS)}"
        for chosen in topics
    ]
    vectors = encoder.encode(texts)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1.0)
    found = []
    for i in range(n):
        near = np.argsort(-scores[i], kind="stable")[:k]
        hits = [Retrieved(None, texts[j], topics[j], float(scores[i, j]), vectors[j]) for j in near]
        found.append(Row(str(i), texts[i], topics[i], hits))
    return found


@pytest.fixture(scope="module")
def lists(encoder: Encoder) -> list[Row]:
    torch.set_num_threads(1)
    return make_lists(encoder, 160)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig(
        epochs=12, batch_size=16, lr=5e-3, k=6, fusion_k=4, layers=2, rank=4, folds=1, holdout=0.25,
        patience=9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(
    encoder: Encoder,
    lists: list[Row],
    config: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("several") / "m"
    train_head(MultilabelTraining(lists, config, encoder), out)
    return out


def ask(reader: Reader, rows: list[Row], *, closed: bool = False) -> list[Prediction]:
    states = reader.read([reader.tokenize(row.text) for row in rows], ["label"] * len(rows))
    hits = [[] if closed else row.hits for row in rows]
    return reader.predict(states, hits, "label", index_labels=[])


def test_shares_are_those_of_the_single_label_vote(encoder: Encoder, rows: list[Row]) -> None:
    """With one label a hit, no signs to cancel and weights of one sign, they are one vote."""
    hits = [row.hits for row in rows[:10]]
    base = torch.from_numpy(encoder.encode([row.text for row in rows[:10]]))
    multilabel = plain_vote(base, make_memory(hits, LABELS, 32, 6, multilabel=True), 3)
    weights = plain_vote(base, make_memory(hits, LABELS, 32, 6), 3).weights
    assert torch.allclose(multilabel.weights, weights, atol=1e-6)
    assert torch.allclose(multilabel.probs.sum(-1), torch.ones(10), atol=1e-5)
    both = [[replace(hit, label=LABELS) for hit in row] for row in hits]
    said = plain_vote(base, make_memory(both, LABELS, 32, 6, multilabel=True), 3)
    assert torch.allclose(said.probs, torch.ones(10, 3), atol=1e-5)


def test_nothing_found_leaves_the_head_alone() -> None:
    gate, logits = IndependentGate(), torch.tensor([[2.0, -2.0]])
    memory = make_memory([[]], ["a", "b"], 4, 3, multilabel=True)
    answer = gate(logits, plain_vote(torch.zeros(1, 4), memory, 2))
    assert torch.allclose(answer.probs, torch.sigmoid(logits), atol=1e-5)
    assert answer.gate.tolist() == [0.0]


def test_the_threshold_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(5)
    probs = torch.rand(40, 3, generator=generator).round(decimals=1)
    truth = (torch.rand(40, 3, generator=generator) < probs).float()

    def f1(threshold: float) -> float:
        said = (probs >= threshold).float()
        return float(2 * (said * truth).sum() / (said.sum() + truth.sum()))

    threshold, best = best_threshold(probs, truth)
    assert best == pytest.approx(f1(threshold))
    assert best == pytest.approx(max(f1(t / 20) for t in range(21)))
    assert best_threshold(probs, torch.zeros(40, 3)) == (0.5, 0.0)


def test_fitting_makes_overconfident_logits_probable() -> None:
    generator = torch.Generator().manual_seed(1)
    honest = torch.randn(400, 4, generator=generator)
    truth = (torch.rand(400, 4, generator=generator) < torch.sigmoid(honest)).float()
    empty = Memory(
        torch.zeros(400, 0, 8),
        torch.zeros(400, 0, 4, dtype=torch.bool),
        torch.zeros(400, 0),
        torch.zeros(400, 0, dtype=torch.bool),
        torch.zeros(400, 0, dtype=torch.bool),
    )
    nothing = torch.zeros(400, 0)
    evidence = Evidence(5 * honest, nothing, nothing, empty, truth, torch.ones(400, 2))
    gate = IndependentGate()
    fit_multilabel(gate, evidence)
    with torch.no_grad():
        probs = gate(evidence.logits, evidence.neighbours(4)).probs
    fitted = float(binary_loss(probs, truth).mean())
    assert fitted < float(binary_loss(torch.sigmoid(5 * honest), truth).mean()) - 0.3
    assert fitted == pytest.approx(
        float(binary_loss(torch.sigmoid(honest), truth).mean()), abs=0.01
    )


def test_metrics_of_sets() -> None:
    truth, said = [["a", "b"], ["c"], []], [["a"], ["a", "c"], []]
    found = set_scores(truth, said)
    assert found["micro_f1"] == pytest.approx(2 * 2 / 6)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["row_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert row_f1([], []) == 1.0
    assert row_f1(["a"], []) == 0.0
    assert marks_of(["a", "b"], [["b"], [], ["x"]]).tolist() == [[0, 1], [0, 0], [0, 0]]


def test_the_last_example_of_any_label_is_trained_on(lists: list[Row]) -> None:
    lone = Row("x", "eagle eagle", ["birds", "lonely"])
    plan = plan_rows([*lists, lone], TrainConfig(holdout=0.9))
    assert len(lists) in plan.train
    assert any("lonely" in warning for warning in plan.warnings)


def test_it_learns_and_reports(checkpoint: Path) -> None:
    _, heads = load_heads(checkpoint)
    report = heads["label"].report
    assert set(report["metrics"]) == {"on", "off", "none", "neighbours"}
    for figures in report["metrics"].values():
        assert set(figures) == {"micro_f1", "macro_f1", "row_f1", "accuracy", "rows"}
    assert report["metrics"]["on"]["micro_f1"] > 0.85
    assert 0 < report["calibration"]["threshold"] < 1
    paired = report["diagnosis"]["paired"]["neighbours"]
    assert paired["rows"] == report["held_out"]
    assert all(isinstance(one["said"], str) for one in report["diagnosis"]["worst"])


def test_independent_scores(encoder: Encoder, checkpoint: Path, lists: list[Row]) -> None:
    reader = Reader.load(checkpoint, encoder)
    open_, shut = ask(reader, lists), ask(reader, lists, closed=True)
    for answers, least in ((open_, 0.7), (shut, 0.3)):  # one set in six by chance
        right = [set(a.answered) == set(row.names) for a, row in zip(answers, lists, strict=True)]
        assert sum(right) / len(right) > least
        assert all(a.multi and a.calibrated and a.labels == LABELS for a in answers)
    two = [a for a, row in zip(open_, lists, strict=True) if len(row.names) == 2]
    assert np.mean([a.probs.sum() for a in two]) > 1.5
    assert all(sum(a.weights) <= 1 + 1e-4 for a in open_)
    assert all(a.gate == 0 for a in shut)


def test_alone_and_in_a_batch(encoder: Encoder, checkpoint: Path, lists: list[Row]) -> None:
    reader = Reader.load(checkpoint, encoder)
    part = [replace(row, hits=row.hits[: i % 4]) for i, row in enumerate(lists[:8])]
    for row, expected in zip(part, ask(reader, part), strict=True):
        (alone,) = ask(reader, [row])
        assert np.abs(alone.probs - expected.probs).max() < 1e-5


def test_labels_that_only_hits_carry(encoder: Encoder, checkpoint: Path, lists: list[Row]) -> None:
    reader = Reader.load(checkpoint, encoder)
    new = [replace(hit, label=["shiny", *hit.names]) for hit in lists[0].hits]
    (answer,) = ask(reader, [replace(lists[0], hits=new)])
    scores = dict(zip(answer.labels, answer.probs.tolist(), strict=True))
    assert answer.labels == [*LABELS, "shiny"]
    assert "shiny" in answer.answered
    (none,) = ask(reader, [lists[0]])
    for label in LABELS:  # what is new takes nothing from what is known
        assert scores[label] == pytest.approx(
            dict(zip(none.labels, none.probs.tolist(), strict=True))[label], abs=0.15
        )
    said = replace(lists[0].hits[0], label="unheard", exact=True)
    (told,) = ask(reader, [replace(lists[0], hits=[said])])
    assert told.label == "unheard"
    assert told.decided


def test_folds_and_a_base(
    encoder: Encoder, lists: list[Row], config: TrainConfig, checkpoint: Path, tmp_path: Path
) -> None:
    small = replace(config, holdout=0.0, folds=2, epochs=2)
    report = train_head(
        MultilabelTraining(lists[:60], small, encoder, baseline=False),
        tmp_path / "f",
        base=checkpoint,
    )
    assert report.evaluated_on == "out-of-fold"
    assert set(report.metrics) == {"on", "off", "neighbours", "previous"}
    other = replace(small, field="other", folds=1, epochs=1, holdout=0.2)
    train_head(
        MultilabelTraining(lists[:60], other, encoder, baseline=False),
        tmp_path / "g",
        base=checkpoint,
    )
    for name in ("model.safetensors", "config.json", "report.json"):
        file = Path(head_folder("label")) / name
        assert (checkpoint / file).read_bytes() == (tmp_path / "g" / file).read_bytes()


def test_configurations() -> None:
    multilabel = HeadConfig(
        field="label", labels=("b", "a"), encoder_sha256="0" * 64, multilabel=True
    )
    assert HeadConfig.from_json(json.loads(json.dumps(multilabel.to_json()))) == multilabel
    single = HeadConfig(field="label", labels=("b", "a"), encoder_sha256="0" * 64)
    assert "multilabel" not in single.to_json()  # the file of a head with one label is as it was


def test_refusals(encoder: Encoder, config: TrainConfig, tmp_path: Path) -> None:
    rows = [Row("1", "apple", ["fruit"]), Row("2", "pear", ["fruit"]), Row("3", "saw", [])]
    with pytest.raises(TrainingRefused, match="1 labels"):
        train_head(MultilabelTraining(rows, config, encoder), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_with_nothing_held_out_the_gate_is_fitted_out_of_fold(
    encoder: Encoder, lists: list[Row], config: TrainConfig, tmp_path: Path
) -> None:
    small = replace(config, holdout=0.0, folds=1, epochs=1)
    report = train_head(
        MultilabelTraining(lists[:30], small, encoder, baseline=False), tmp_path / "m"
    )
    assert report.evaluated_on == "out-of-fold"
    assert report.metrics["on"]["rows"] == 30
