"""Hits that a head was not trained on: when they count, and that nothing changes without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.gate import Gate, Mixture
from model.labels.memory import Retrieved, make_memory
from model.labels.neighbours import plain_vote
from model.labels.novelty import COUNTED, VOTING, counted, is_new, novel
from model.labels.prediction import Prediction
from model.provenance import TrainedOn, digests
from model.reader import Reader
from model.training.driver import train_head
from model.training.labels import LabelTraining
from model.training.split import Row

LABELS = ["birds", "fruit", "tools"]


@pytest.fixture(scope="module")
def heads(
    encoder: Encoder, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reader, Reader]:
    """The same head, with and without a list of what it was trained on (`d0` to `d89`)."""
    folder = tmp_path_factory.mktemp("heads")
    config = TrainConfig(
        epochs=2, batch_size=16, lr=3e-3, k=6, fusion_k=4, layers=2, rank=4, folds=1, holdout=0.2
    )
    for name, documents in (("known", digests(f"d{i}" for i in range(90))), ("unknown", b"")):
        train_head(
            LabelTraining(rows, config, encoder, baseline=False), folder / name, documents=documents
        )
    return Reader.load(folder / "known", encoder), Reader.load(folder / "unknown", encoder)


def named(row: Row, *ids: str) -> list[Retrieved]:
    return [replace(hit, doc_id=name) for hit, name in zip(row.hits, ids, strict=False)]


def ask(reader: Reader, text: str, hits: list[Retrieved]) -> Prediction:
    states = reader.read([reader.tokenize(text)], ["label"])
    return reader.predict(states, [hits], "label", index_labels=LABELS)[0]


def correction(encoder: Encoder, text: str, label: str) -> Retrieved:
    return Retrieved(None, text, label, 1.0, encoder.encode([text])[0], doc_id="new")


def unsharpened(reader: Reader, said: Prediction) -> NDArray[np.float32]:
    """The probabilities before the last temperature."""
    powered: NDArray[np.float32] = (
        said.probs ** reader.heads["label"].report["calibration"]["temperature"]
    )
    scaled: NDArray[np.float32] = powered / powered.sum()
    return scaled


def test_documents_that_a_head_was_trained_on_are_told_from_others() -> None:
    ids = [f"d{i}" for i in range(500)]
    known = TrainedOn(digests(ids))
    assert len(known) == 500
    assert not known.lacks(ids).any()
    assert known.lacks(["x", "d3", "d500", ""]).tolist() == [True, False, True, True]
    assert "d7" in known
    assert "d7" not in TrainedOn()


def test_what_was_trained_on_or_has_no_name_is_not_new(rows: list[Row]) -> None:
    hits = [named(rows[0], "d1", "x", "d2"), [replace(rows[1].hits[0], doc_id=None)], []]
    known = TrainedOn(digests(["d1", "d2"]))
    assert is_new(hits, known, 3).tolist() == [[False, True, False], [False] * 3, [False] * 3]
    assert not is_new(hits, TrainedOn(), 3).any()


def test_more_hits_count_where_one_of_them_is_new(encoder: Encoder, rows: list[Row]) -> None:
    memory = make_memory([rows[0].hits, rows[1].hits], LABELS, encoder.dim, 6)
    new = torch.zeros(2, 6, dtype=torch.bool)
    assert counted(memory, new, 2).mask.tolist() == [[True] * 2] * 2
    new[1, 5] = True
    assert counted(memory, new, 2).mask.tolist() == [[True] * 2 + [False] * 4, [True] * 6]


def test_with_nothing_new_the_answer_is_that_of_a_head_that_knows_no_names(
    heads: tuple[Reader, Reader], rows: list[Row]
) -> None:
    known, unknown = heads
    assert known.wanted("label") == COUNTED
    assert unknown.wanted("label") <= 6
    for row in rows[:20]:
        hits = named(row, *(f"d{i}" for i in range(6)))
        np.testing.assert_array_equal(
            ask(known, row.text, hits).probs, ask(unknown, row.text, hits).probs
        )


def test_a_new_document_moves_the_answer_towards_the_plain_vote(
    heads: tuple[Reader, Reader], encoder: Encoder, rows: list[Row]
) -> None:
    known, unknown = heads
    for row in rows[:20]:
        other = LABELS[(LABELS.index(str(row.label)) + 1) % 3]
        hits = [correction(encoder, row.text + " of", other), *named(row, "d1", "d2", "d3")]
        memory = make_memory([hits], LABELS, encoder.dim, 4)
        vote = plain_vote(torch.from_numpy(encoder.encode([row.text])), memory, 3).probs[0].numpy()
        with_it, without = ask(known, row.text, hits), ask(unknown, row.text, hits)
        far = [np.abs(unsharpened(known, one) - vote).sum() for one in (with_it, without)]
        assert far[0] < far[1]
        assert with_it.probs.sum() == pytest.approx(1.0, abs=1e-5)
        assert sum(with_it.weights) <= 1 + 1e-5
        assert with_it.gate > without.gate


def test_no_further_than_the_gate_trusts_neighbours(encoder: Encoder, rows: list[Row]) -> None:
    row = rows[0]
    base = torch.from_numpy(encoder.encode([row.text]))
    memory = make_memory([row.hits], LABELS, encoder.dim, 6)
    vote = plain_vote(base, memory, 3)
    found = novel(base, memory, torch.ones(1, 6, dtype=torch.bool), 3)
    assert found is not None
    assert found.mass.item() == pytest.approx(1.0, abs=1e-5)
    gate = Gate().requires_grad_(False)
    before: Mixture = gate(torch.tensor([[3.0, 0.0, 0.0]]), vote)
    after: Mixture = gate(torch.tensor([[3.0, 0.0, 0.0]]), vote, found)
    g = before.gate
    expected = (1 - g) * before.probs + g * found.probs
    torch.testing.assert_close(after.probs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.gate, g + g - g * g)


def test_new_documents_with_new_labels_are_left_to_the_gate_for_those(
    encoder: Encoder, rows: list[Row]
) -> None:
    base = torch.from_numpy(encoder.encode([rows[0].text]))
    hits = [correction(encoder, "apple crow", "zoo"), *rows[0].hits]
    memory = make_memory([hits], [*LABELS, "zoo"], encoder.dim, 7)
    new = torch.tensor([[True] + [False] * 6])
    assert novel(base, memory, new, 3) is None


def test_only_the_nearest_vote(encoder: Encoder, rows: list[Row]) -> None:
    hits = [hit for row in rows[:4] for hit in row.hits]
    base = torch.from_numpy(encoder.encode([rows[0].text]))
    memory = make_memory([hits], LABELS, encoder.dim, 24)
    far = torch.zeros(1, 24, dtype=torch.bool)
    far[0, VOTING:] = True
    assert novel(base, memory, far, 3) is None
    far[0, 0] = True
    found = novel(base, memory, far, 3)
    assert found is not None
    assert found.weights.shape == (1, 24)
    assert not found.weights[0, VOTING:].any()


def test_a_batch_changes_no_answer(
    heads: tuple[Reader, Reader], encoder: Encoder, rows: list[Row], tmp_path: Path
) -> None:
    reader = heads[0]
    texts = [row.text for row in rows[:6]]
    hits = [
        named(row, *(f"d{i}" for i in range(6)))
        + ([correction(encoder, "saw crow", "birds")] if number % 2 else [])
        for number, row in enumerate(rows[:6])
    ]
    states = reader.read([reader.tokenize(text) for text in texts], ["label"] * 6)
    together = reader.predict(states, hits, "label", index_labels=LABELS)
    for text, row, one in zip(texts, hits, together, strict=True):
        np.testing.assert_allclose(ask(reader, text, row).probs, one.probs, atol=1e-5)
