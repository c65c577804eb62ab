from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import head_folder, load_heads
from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder
from model.folders import CheckpointRefused
from model.labels.memory import Retrieved
from model.reader import Reader
from model.training.driver import train_head
from model.training.labels import LabelTraining
from model.training.split import Row, bucket, plan_rows
from model.training.trainer import TrainingCancelled, epoch_batches
from model.training.workspace import TrainingRefused


def test_it_learns_and_reports(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    report = train_head(
        LabelTraining(rows, replace(quick, epochs=6), encoder),
        tmp_path / "one",
        progress=lambda step, total, loss, left: seen.append((step, total)),
    )
    assert report.evaluated_on == "held-out"
    assert report.trained_on + report.held_out == len(rows)
    assert set(report.metrics) == {"on", "off", "none", "neighbours"}
    assert report.metrics["on"]["accuracy"] >= 0.75
    assert {"ece_before", "ece_after", "temperature"} <= set(report.calibration)
    steps = [step for step, _ in seen]
    assert steps == sorted(steps)
    assert all(step <= total for step, total in seen)
    manifest, heads = load_heads(tmp_path / "one")
    assert manifest.fields == ("label",)
    points = heads["label"].report["curve"]
    assert any("held_out_loss" in point for point in points)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one"]  # nothing left beside it
    assert "embeddings" not in " ".join(heads["label"].tensors)


def test_it_learns_with_bf16_products_too(
    encoder: Encoder,
    rows: list[Row],
    quick: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.config._cpu_has_bf16", lambda cpuinfo: True)
    config = replace(quick, epochs=6)
    report = train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "mixed")
    assert report.metrics["on"]["accuracy"] >= 0.75
    _, heads = load_heads(tmp_path / "mixed")
    learned = {n: t for n, t in heads["label"].tensors.items() if not n.startswith("ngrams.")}
    assert {t.dtype for t in learned.values()} == {torch.float32}


def test_a_run_that_diverges_is_refused(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, optimizer="sgd", lr=1e30, epochs=6, max_grad_norm=1e9)
    with pytest.raises(TrainingRefused, match="take a lower lr"):
        train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "diverged")
    assert not (tmp_path / "diverged").exists()


def test_sgd_and_folds(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, optimizer="sgd", lr=0.2, holdout=0.0, folds=3, epochs=3)
    report = train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "sgd")
    assert report.evaluated_on == "out-of-fold"
    assert report.metrics["on"]["rows"] == len(rows)
    assert report.metrics["on"]["accuracy"] > 0.5


def test_a_run_that_was_cut_off_ends_as_if_it_was_not(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, patience=9)
    train_head(LabelTraining(rows[:60], config, encoder, baseline=False), tmp_path / "whole" / "m")
    steps = 0

    def enough() -> bool:
        nonlocal steps
        steps += 1
        return steps == 5  # in the second epoch

    cut = tmp_path / "cut" / "m"
    with pytest.raises(TrainingCancelled):
        train_head(LabelTraining(rows[:60], config, encoder, baseline=False), cut, cancelled=enough)
    assert not cut.exists()
    later: list[int] = []
    train_head(
        LabelTraining(rows[:60], config, encoder, baseline=False),
        cut,
        progress=lambda step, total, loss, left: later.append(step),
    )
    assert later[0] == 5  # after the first epoch, not from the start
    path = Path(head_folder("label")) / "model.safetensors"
    whole = load_file(tmp_path / "whole" / "m" / path)
    resumed = load_file(cut / path)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_heads_stay_as_they_are(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, epochs=1)
    train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "a")
    other = replace(config, field="topic/二", seed=3)
    train_head(
        LabelTraining(rows, other, encoder, baseline=False), tmp_path / "b", base=tmp_path / "a"
    )
    again = train_head(
        LabelTraining(rows, other, encoder, baseline=False), tmp_path / "c", base=tmp_path / "b"
    )
    assert "previous" in again.metrics
    for name in ("model.safetensors", "config.json", "report.json"):
        file = Path(head_folder("label")) / name
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()
    assert set(Reader.load(tmp_path / "c", encoder).heads) == {"label", "topic/二"}
    with pytest.raises(CheckpointRefused, match="there already"):
        train_head(LabelTraining(rows, other, encoder, baseline=False), tmp_path / "c")


def test_a_base_of_another_encoder_is_refused(
    encoder: Encoder, other_encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, epochs=1, field="x")
    train_head(LabelTraining(rows[:30], config, other_encoder, baseline=False), tmp_path / "a")
    with pytest.raises(CheckpointRefused) as refused:
        train_head(
            LabelTraining(rows[:30], quick, encoder, baseline=False),
            tmp_path / "b",
            base=tmp_path / "a",
        )
    assert encoder.sha256[:12] in str(refused.value)
    assert other_encoder.sha256[:12] in str(refused.value)
    assert not (tmp_path / "b").exists()


def test_refusals(encoder: Encoder, quick: TrainConfig, tmp_path: Path) -> None:
    bare = [Row("1", "apple", None), Row("2", "pear", ["fruit"])]
    with pytest.raises(TrainingRefused, match="none of the 2 rows"):
        train_head(LabelTraining(bare, quick, encoder), tmp_path / "m")
    one = [Row("1", "apple", "fruit"), Row("2", "pear", "fruit")]
    with pytest.raises(TrainingRefused, match="one label"):
        train_head(LabelTraining(one, quick, encoder), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_class_of_one_example_is_named_and_trained_on(rows: list[Row]) -> None:
    lone = Row("x", "eagle eagle", "lonely")
    plan = plan_rows([*rows, lone], TrainConfig(holdout=0.5))
    assert len(rows) in plan.train
    assert any("lonely" in warning for warning in plan.warnings)


def test_equal_texts_fall_on_the_same_side() -> None:
    assert bucket("Where is  MY order") == bucket("where is my ORDER ")
    texts = [f"text {i // 2}" + " " * (i % 2) for i in range(400)]
    rows = [Row(str(i), text, "a" if i % 4 < 2 else "b") for i, text in enumerate(texts)]
    held = set(plan_rows(rows, TrainConfig(holdout=0.2)).held)
    assert held
    apart = [i for i in range(0, 400, 2) if (i in held) != (i + 1 in held)]
    assert len(apart) <= 1  # where the limit fell between two


def test_an_epoch_holds_every_row_once() -> None:
    lengths = [i % 37 + 1 for i in range(501)]
    batches = epoch_batches(lengths, 16, torch.Generator().manual_seed(1))
    assert sorted(i for batch in batches for i in batch) == list(range(501))


def test_configurations_survive_json() -> None:
    head = HeadConfig(field="label", labels=("b", "a"), encoder_sha256="0" * 64)
    assert HeadConfig.from_json(json.loads(json.dumps(head.to_json()))) == head


def test_no_hits_at_all_trains_a_closed_book(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    without = [Row(row.id, row.text, row.label) for row in rows[:45]]
    report = train_head(LabelTraining(without, replace(quick, epochs=1), encoder), tmp_path / "m")
    assert report.metrics["on"]["accuracy"] == report.metrics["off"]["accuracy"]
    reader = Reader.load(tmp_path / "m", encoder)
    states = reader.read([reader.tokenize("apple")], ["label"])
    found = [Retrieved(None, "apple", "fruit", 1.0, encoder.encode(["apple"])[0])]
    assert reader.predict(states, [found], "label", index_labels=[])[0].label is not None


def test_with_nothing_held_out_two_folds_judge(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, holdout=0.0, folds=1, epochs=1)
    report = train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "all")
    assert report.held_out == 0
    assert report.evaluated_on == "out-of-fold"
    assert report.metrics["on"]["rows"] == len(rows)
