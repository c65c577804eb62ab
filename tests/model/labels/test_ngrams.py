"""The n-grams beside a network: what they are, how far they are trusted, that they are served."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_heads
from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder
from model.labels import ngrams
from model.labels.memory import Retrieved
from model.labels.ngrams import SHIFT, NGrams, counts_of, share_of
from model.reader import Reader
from model.training.driver import train_head
from model.training.label_stages import other_texts
from model.training.labels import LabelTraining
from model.training.split import Row, plan_rows

TEXTS = [[1, 5, 6], [1, 5, 7], [1, 8, 8, 8], [1, 8, 6]]
TRUTH = torch.tensor([0, 0, 1, 1])


def bigram(first: int, second: int) -> int:
    return ((first + 1) << SHIFT) | (second + 1)


def test_counts_are_of_single_tokens_and_of_neighbours_in_one_text() -> None:
    found = counts_of([[3, 4, 3, 4], [], [4, 3]])
    assert dict(zip(zip(found.owner, found.keys, strict=True), found.times, strict=True)) == {
        (0, 4): 2,
        (0, 5): 2,
        (0, bigram(3, 4)): 2,
        (0, bigram(4, 3)): 1,
        (2, 4): 1,
        (2, 5): 1,
        (2, bigram(4, 3)): 1,
    }


def test_a_text_is_its_tfidf_of_length_one() -> None:
    view = NGrams.fit(TEXTS, TRUTH, 2)
    # Kept is what two texts have: the tokens 1, 5, 6, 8 and the bigrams (1, 5) and (1, 8).
    assert view.keys.tolist() == [2, 6, 7, 9, bigram(1, 5), bigram(1, 8)]
    places, offsets, values = view.features(counts_of([[1, 8, 8, 8], [99], [5]]), 3)
    rare, common = math.log(5 / 3) + 1, 1.0
    often = (1 + math.log(3)) * rare
    length = math.sqrt(common**2 + often**2 + rare**2)
    assert places.tolist() == [0, 3, 5, 1]
    assert offsets.tolist() == [0, 3, 3]
    assert values.tolist() == pytest.approx([common / length, often / length, rare / length, 1.0])


def test_the_weights_are_at_the_optimum_of_logistic_regression() -> None:
    view = NGrams.fit(TEXTS, TRUTH, 2)
    x = torch.zeros(4, len(view.keys))
    places, offsets, values = view.features(counts_of(TEXTS), 4)
    ends = [*offsets.tolist()[1:], len(places)]
    for i, (start, end) in enumerate(zip(offsets.tolist(), ends, strict=True)):
        x[i, places[start:end]] = values[start:end]
    assert torch.allclose(x @ view.weight.float() + view.bias, view(TEXTS), atol=1e-5)
    wrong = (view(TEXTS).softmax(-1) - torch.nn.functional.one_hot(TRUTH, 2)) / 4
    slope = x.T @ wrong + view.weight.float() / (ngrams.C * 4)
    assert slope.abs().max() < 1e-3
    assert view(TEXTS).argmax(-1).tolist() == TRUTH.tolist()


def test_what_it_says_hangs_on_the_text_alone() -> None:
    view = NGrams.fit(TEXTS, TRUTH, 2)
    asked = [*TEXTS, [77], [], [5, 6, 8]]
    assert torch.equal(view(asked), torch.cat([view([one]) for one in asked]))
    assert torch.equal(view([[77]])[0], view.bias)


def test_rare_ngrams_go_first_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "MOST_WEIGHTS", 4)
    assert NGrams.fit(TEXTS, TRUTH, 2).keys.tolist() == [2]  # the one that four texts have


def test_its_precision_is_its_own(encoder: Encoder) -> None:
    view = NGrams.fit(TEXTS, TRUTH, 2)
    before = view(TEXTS)
    torch.nn.Sequential(view).to(dtype=torch.bfloat16)
    assert torch.equal(view(TEXTS), before)


def test_a_view_is_trusted_as_far_as_it_is_right() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(3, (400,), generator=generator)
    right = torch.nn.functional.one_hot(truth, 3).float()
    noise = torch.randn(400, 3, generator=generator)
    head = right + noise
    assert share_of(head, right + torch.randn(400, 3, generator=generator), truth) > 0.5
    assert share_of(head, torch.randn(400, 3, generator=generator), truth) < 0.1
    assert share_of(head, -right, truth) == 0.0
    assert 0 < share_of(noise, 50 * right, truth) < 1000  # right about every row: still a number
    assert share_of(torch.full((400, 3), math.nan), right, truth) == 0.0


def test_a_head_is_served_with_the_ngrams_that_it_was_judged_with(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, epochs=1, lr=1e-5)
    report = train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "with")
    assert report.calibration["ngrams"] > 0
    reader = Reader.load(tmp_path / "with", encoder)
    held = [rows[i] for i in plan_rows(rows, config).held]
    tokens = [reader.tokenize(row.text) for row in held]
    states = reader.read(tokens, ["label"] * len(held))
    assert all(state.wide is not None and float(state.wide.abs().sum()) > 0 for state in states)
    answers = reader.predict(states, [[] for _ in held], "label", index_labels=[])
    right = [a.label == row.label for a, row in zip(answers, held, strict=True)]
    assert sum(right) / len(right) == pytest.approx(report.metrics["off"]["accuracy"])
    alone = reader.predict(
        [replace(state, wide=None) for state in states], [[] for _ in held], "label",
        index_labels=[],
    )  # fmt: skip
    assert any(abs(a.confidence - b.confidence) > 0.01 for a, b in zip(answers, alone, strict=True))


def test_the_network_and_the_reader_give_the_same(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    train_head(LabelTraining(rows, quick, encoder, baseline=False), tmp_path / "with")
    reader = Reader.load(tmp_path / "with", encoder)
    network = reader._networks["label"]
    texts = [row.text for row in rows[:5]]
    states = reader.read([reader.tokenize(text) for text in texts], ["label"] * 5)
    served = reader.predict(states, [row.hits for row in rows[:5]], "label", index_labels=[])
    whole = network(texts, [row.hits[: network.config.k] for row in rows[:5]]).exp()
    for answer, probs in zip(served, whole, strict=True):
        assert answer.probs == pytest.approx(probs.numpy(), abs=1e-4)


def test_a_head_without_them_is_the_file_that_it_was(
    encoder: Encoder, rows: list[Row], quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, ngrams=False)
    report = train_head(LabelTraining(rows, config, encoder, baseline=False), tmp_path / "without")
    assert report.calibration["ngrams"] == 0
    _, heads = load_heads(tmp_path / "without")
    assert not [name for name in heads["label"].tensors if name.startswith("ngrams.")]
    raw = json.loads((tmp_path / "without" / "heads" / "label" / "config.json").read_text())
    assert "ngrams" not in raw
    assert HeadConfig.from_json(raw).ngrams == 0


def test_texts_that_only_retrieval_brought_teach_them_too(encoder: Encoder) -> None:
    def hit(text: str, label: str | None, doc_id: str | None = None) -> Retrieved:
        return Retrieved(None, text, label, 1.0, None, doc_id=doc_id)

    rows = [
        Row("a", "red apple", "fruit", [hit("green pear", "fruit", "x"), hit("saw", "zoo")]),
        Row("b", "long saw", "tools", [hit("green pear", "fruit", "x"), hit("a hammer", "tools")]),
        Row(
            "c", "short saw", "tools", [hit("Red  APPLE", "fruit"), hit("a passage", "fruit", "a")]
        ),
        Row("d", "pliers", "tools", [hit("an axe", None)]),
    ]
    found = other_texts(rows, ["fruit", "tools"], encoder, TrainConfig())
    # Not: another's label, a row's own text or document, a text without a label.
    assert found.tokens == encoder.tokenize(["green pear", "a hammer"])
    assert found.truth.tolist() == [0, 1]


def test_and_those_with_several_labels_where_labels_are_independent(encoder: Encoder) -> None:
    hits = [
        Retrieved(None, "green pear", ["fruit", "tools"], 1.0, None),
        Retrieved(None, "a hammer", ["tools", "zoo"], 1.0, None),
    ]
    rows = [Row("a", "red apple", ["fruit"], hits)]
    found = other_texts(rows, ["fruit", "tools"], encoder, TrainConfig(), multilabel=True)
    assert found.truth.tolist() == [[1, 1], [0, 1]]
    assert other_texts(rows, ["fruit", "tools"], encoder, TrainConfig()).tokens == []


def test_independent_labels_have_a_regression_each() -> None:
    marks = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    view = NGrams.fit([[1, 5, 6], [1, 5, 7], [1, 8, 6], [1, 8, 7]], marks, 2)
    said = view([[1, 5, 6], [1, 5, 7], [1, 8, 6], [1, 8, 7]])
    assert (said > 0).tolist() == (marks > 0).tolist()
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(2, (300, 2), generator=generator).float()
    head = truth + torch.randn(300, 2, generator=generator)
    assert share_of(head, 2 * truth - 1 + torch.randn(300, 2, generator=generator), truth) > 0.3
