from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.labels.prediction import Prediction
from model.reader import Reader
from model.training.driver import train_head
from model.training.labels import LabelTraining
from model.training.split import Row


@pytest.fixture(scope="module")
def checkpoint(encoder: Encoder, rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "m"
    config = TrainConfig(
        epochs=12, batch_size=16, lr=3e-3, k=6, fusion_k=4, layers=2, rank=4, folds=1, holdout=0.2
    )
    train_head(LabelTraining(rows, config, encoder, baseline=False), out)
    return out


def ask(
    reader: Reader, texts: list[str], hits: list[list[Retrieved]], labels: list[str] | None = None
) -> list[Prediction]:
    states = reader.read([reader.tokenize(text) for text in texts], ["label"] * len(texts))
    return reader.predict(states, hits, "label", index_labels=labels or [])


def hit(
    encoder: Encoder, text: str, label: str | list[str] | None, exact: bool = False
) -> Retrieved:
    return Retrieved(None, text, label, 1.0, encoder.encode([text])[0], exact)


def test_without_a_head_the_neighbours_answer(encoder: Encoder, rows: list[Row]) -> None:
    reader = Reader.load(None, encoder)
    answers = ask(reader, [row.text for row in rows], [row.hits for row in rows], ["zoo"])
    right = [a.label == row.label for a, row in zip(answers, rows, strict=True)]
    assert sum(right) / len(right) > 0.6
    assert answers[0].labels == ["birds", "fruit", "tools", "zoo"]
    for answer in answers:
        assert answer.probs.sum() == pytest.approx(1.0, abs=1e-4)
        assert sum(answer.weights) == pytest.approx(1.0, abs=1e-4)
        assert not answer.calibrated


def test_with_neither_it_abstains(encoder: Encoder) -> None:
    reader = Reader.load(None, encoder)
    nothing, unlabelled = ask(reader, ["apple", "saw"], [[], [hit(encoder, "pear", None)]])
    for answer in (nothing, unlabelled):
        assert answer.label is None
        assert answer.abstained
        assert answer.labels == []
    assert unlabelled.weights == [0.0]


def test_a_head_answers_with_nothing_found(
    encoder: Encoder, checkpoint: Path, rows: list[Row]
) -> None:
    reader = Reader.load(checkpoint, encoder)
    answers = ask(reader, [row.text for row in rows], [[] for _ in rows])
    right = [a.label == row.label for a, row in zip(answers, rows, strict=True)]
    assert sum(right) / len(right) > 0.8
    assert all(a.calibrated and a.gate == 0 and a.probs.sum() == pytest.approx(1) for a in answers)


def test_a_prediction_is_the_same_alone_and_in_a_batch(
    encoder: Encoder, checkpoint: Path, rows: list[Row]
) -> None:
    reader = Reader.load(checkpoint, encoder)
    part = rows[:12]
    together = ask(reader, [row.text for row in part], [row.hits[: len(row.id)] for row in part])
    for row, expected in zip(part, together, strict=True):
        (alone,) = ask(reader, [row.text], [row.hits[: len(row.id)]])
        assert np.abs(alone.probs - expected.probs).max() < 1e-5
        assert alone.labels == expected.labels


def test_fields_of_a_batch_do_not_meet(encoder: Encoder, checkpoint: Path) -> None:
    reader = Reader.load(checkpoint, encoder)
    tokens = [reader.tokenize(text) for text in ("apple saw", "crow", "plum is very here")]
    states = reader.read(tokens, ["label", None, "unknown"])
    assert [state.states is not None for state in states] == [True, False, False]
    expected = reader.encode(["apple saw", "crow", "plum is very here"])
    assert np.abs(np.stack([s.vector for s in states]) - expected).max() < 1e-5


def test_a_new_label_needs_no_training(encoder: Encoder, checkpoint: Path) -> None:
    reader = Reader.load(checkpoint, encoder)
    shown = [hit(encoder, text, "mixed") for text in ("apple saw", "saw apple the", "plum saw")]
    (answer,) = ask(reader, ["apple saw"], [shown], ["mixed"])
    assert answer.labels == ["birds", "fruit", "tools", "mixed"]
    assert answer.label == "mixed"


def test_what_a_person_said_about_this_very_text_decides(
    encoder: Encoder, checkpoint: Path, rows: list[Row]
) -> None:
    for source in (checkpoint, None):
        reader = Reader.load(source, encoder)
        said = hit(encoder, rows[0].text, "tools", exact=True)
        (answer,) = ask(reader, [rows[0].text], [[*rows[0].hits, said]])
        assert answer.label == "tools"
        assert answer.confidence > 0.9
        assert answer.support == 1.0
        assert answer.weights[-1] == max(answer.weights)


def test_values_that_are_lists_get_independent_scores(encoder: Encoder) -> None:
    reader = Reader.load(None, encoder)
    hits = [hit(encoder, "apple saw", ["fruit", "tools"]), hit(encoder, "pear", ["fruit"])]
    (answer,) = ask(reader, ["apple saw"], [hits])
    scores = dict(zip(answer.labels, answer.probs.tolist(), strict=True))
    assert answer.multi
    assert answer.label == "fruit"
    assert scores["fruit"] == pytest.approx(1.0, abs=1e-4)
    assert 0.3 < scores["tools"] < 1.0


def test_more_hits_than_it_counts(encoder: Encoder, checkpoint: Path, rows: list[Row]) -> None:
    reader = Reader.load(checkpoint, encoder)
    many = [h for row in rows[:20] for h in row.hits]
    (answer,) = ask(reader, ["apple"], [many])
    assert len(answer.weights) == len(many)
    assert sum(answer.weights) <= 1.0 + 1e-4


def test_a_hit_with_no_vector_yet_is_read(encoder: Encoder, checkpoint: Path) -> None:
    reader = Reader.load(checkpoint, encoder)
    bare = replace(hit(encoder, "apple", "fruit"), vector=None)
    (answer,) = ask(reader, ["apple"], [[bare]])
    assert answer.probs.sum() == pytest.approx(1.0, abs=1e-4)


def test_half_precision_stays_near(
    encoder_folder: Path, encoder: Encoder, checkpoint: Path, rows: list[Row]
) -> None:
    texts, hits = [row.text for row in rows[:20]], [row.hits for row in rows[:20]]
    full = ask(Reader.load(checkpoint, encoder), texts, hits)
    small = Encoder.load(str(encoder_folder), dtype=torch.bfloat16)
    for exact, rough in zip(full, ask(Reader.load(checkpoint, small), texts, hits), strict=True):
        assert np.abs(exact.probs - rough.probs).max() < 0.1
        assert rough.probs.sum() == pytest.approx(1.0, abs=1e-4)
