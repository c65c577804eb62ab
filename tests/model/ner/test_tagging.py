from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import load_heads
from model.encoder.encoder import Encoder
from model.ner.evidence import TagHit, features, occurrences
from model.ner.metrics import span_scores
from model.ner.network import windows
from model.ner.rows import TagRow, TagTrainConfig
from model.ner.words import SHAPES, align, shape_of, split_words
from model.reader import Reader
from model.training.driver import train_head
from model.training.ner import NerTraining
from model.training.trainer import TrainingCancelled
from model.training.workspace import TrainingRefused

NAMES = ["Ada", "Bert", "Cleo", "Dora", "Egon", "Fritz", "Gina", "Hugo"]
FRUIT = ["apple", "pear", "plum", "grape", "lemon", "melon"]


def make(n: int, *, seed: int = 0) -> list[TagRow]:
    """Sentences in which a capital makes a PERSON and a number of three digits an ORDER."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        name, order = rng.choice(NAMES), str(rng.randint(100, 999))
        text = "\U0001f34e " * (i % 3 == 0) + f"the {rng.choice(FRUIT)} of {name} is"
        spans = [(text.index(name), text.index(name) + len(name), "PERSON")]
        if rng.random() < 0.5:
            text = f"{text} {order}"
            spans.append((len(text) - 3, len(text), "ORDER"))
        rows.append(TagRow(str(i), text, tuple(spans)))
    for row in rows:
        others = [r for r in rows if r.text != row.text][:4]
        row.hits.extend(TagHit(r.text, r.entities, 1.0) for r in others)
    return rows


@pytest.fixture(scope="module")
def trained(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("ner") / "one"
    report = train_head(NerTraining(make(160), quick(), encoder, baseline=False), out)
    assert report.metrics["on"]["f1"] > 0.9
    assert report.metrics["off"]["f1"] > 0.9
    assert report.evaluated_on == "held-out"
    assert set(report.calibration) == {"temperature", "ece"}
    return out


def quick(*, epochs: int = 6) -> TagTrainConfig:
    return TagTrainConfig(epochs=epochs, batch_size=8, layers=2, rank=4, lr=5e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Order NL-48213, £8.40", ["Order", "NL", "-", "48213", ",", "£", "8", ".", "40"]),
        ("café cafe\u0301", ["café", "cafe\u0301"]),
        ("我在Berlin 3月", ["我", "在", "Berlin", "3", "月"]),
        ("\u0301\u0301 👍🏽", ["\u0301\u0301", "👍", "🏽"]),
        ("\u200b \n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    found = split_words(text)
    assert [word.text for word in found] == words
    assert all(text[w.start : w.end] == w.text for w in found)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=80))
@settings(max_examples=200, deadline=None)
def test_splitting_is_total_and_loses_nothing_but_space(text: str) -> None:
    found = split_words(text)
    assert all(text[w.start : w.end] == w.text and w.text for w in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert all(1 <= shape_of(w.text) <= len(SHAPES) for w in found)
    rest = set(text) - set("".join(w.text for w in found))
    assert not any(char.isalnum() for char in rest)


def test_words_and_tokens_find_each_other() -> None:
    words = split_words("Ada's x")
    first, owner = align(words, [(0, 2), (2, 3), (3, 4), (4, 5)])
    assert first == [0, 2, 3, -1]
    assert owner == [0, 0, 1, 2]


def test_windows_hold_every_word_once_and_stay_within_the_limit(encoder: Encoder) -> None:
    text = "the apple is here. " * 30 + "plum" * 200
    words = split_words(text)
    parts = windows(encoder, text, words, 20)
    assert [word for part in parts for word in part.words] == words
    assert all(len(part.ids) <= 20 for part in parts)
    assert parts[0].words[-1].text == "."
    for part in parts:
        assert all(0 <= t < len(part.ids) for t in part.first)
        assert len(part.owner) == len(part.ids)


def test_hits_say_how_they_tag_a_word() -> None:
    words = split_words("Ada is")
    hit = TagHit("the apple of ada is", ((13, 16, "PERSON"),))
    other = TagHit("Ada", ((0, 3, "SHIP"),), 0.5)
    seen = occurrences(words, [hit, other])
    said = features(seen, ["PERSON"])
    assert said.shape == (2, 5)
    # In another case (0.5) beside the same word (x 2), against another type in a hit half as good.
    assert said[0, :4] == pytest.approx([0.0, 2 / 3, 0.0, 1 / 3])
    assert said[1, 0] == 1.0
    assert not features(occurrences(words, []), ["PERSON"]).any()


def test_a_head_finds_what_it_was_taught_with_places_in_the_text(
    trained: Path, encoder: Encoder
) -> None:
    tagger = Reader.load(trained, encoder).tagger("ner")
    text = "\U0001f34e the pear of  Hugo is 812"
    (answer,) = tagger.answer([text], [[]])
    assert [(e.text, e.type) for e in answer.entities] == [("Hugo", "PERSON"), ("812", "ORDER")]
    assert all(text[e.start : e.end] == e.text and 0 < e.score <= 1 for e in answer.entities)
    assert answer.calibrated
    assert answer.confidence == min(e.score for e in answer.entities)


@pytest.mark.parametrize(
    "text", ["👍👍", "\u0301\u0301", "\u200b", "\ud800", "x" * 20_000, "a. " * 6_000]
)
def test_any_text_is_answered(trained: Path, encoder: Encoder, text: str) -> None:
    tagger = Reader.load(trained, encoder).tagger("ner")
    hits = [TagHit("the Nautilus is", ((4, 12, "SHIP"),))]
    (answer,) = tagger.answer([text], [hits])
    assert all(text[e.start : e.end] == e.text for e in answer.entities)
    assert 0 <= answer.confidence <= 1


def test_batching_never_changes_an_answer(trained: Path, encoder: Encoder) -> None:
    tagger = Reader.load(trained, encoder).tagger("ner")
    rows = make(12, seed=4)
    together = tagger.answer([r.text for r in rows], [r.hits for r in rows])
    for row, whole in zip(rows, together, strict=True):
        (alone,) = tagger.answer([row.text], [row.hits])
        assert [(e.start, e.end, e.type) for e in alone.entities] == [
            (e.start, e.end, e.type) for e in whole.entities
        ]
        assert alone.confidence == pytest.approx(whole.confidence, abs=1e-4)


def test_a_type_that_the_head_lacks_comes_from_the_hits(trained: Path, encoder: Encoder) -> None:
    tagger = Reader.load(trained, encoder).tagger("ner")
    hits = [TagHit("the grape is Nautilus here", ((13, 21, "SHIP"),)), TagHit("the pear", ())]
    (answer,) = tagger.answer(["the grape is nautilus here"], [hits])
    (ship,) = [e for e in answer.entities if e.type == "SHIP"]
    assert (ship.text, ship.trained) == ("nautilus", False)
    assert answer.weights[0] > 0.5
    assert answer.weights[1] == 0
    assert not answer.calibrated


def test_where_head_and_hits_overlap_the_likelier_stays(trained: Path, encoder: Encoder) -> None:
    tagger = Reader.load(trained, encoder).tagger("ner")
    text = "the pear of Hugo is"
    (alone,) = tagger.answer([text], [[]])
    assert [e.type for e in alone.entities] == ["PERSON"]
    hits = [TagHit(text, ((12, 16, "CAT"),))] * 12
    (answer,) = tagger.answer([text], [hits])
    best = max(answer.entities, key=lambda e: e.score)
    assert len(answer.entities) == 1
    assert best.score >= alone.entities[0].score or best.type == "PERSON"
    torch.nn.init.zeros_(tagger.network.scores.weight)  # type: ignore[union-attr]
    torch.nn.init.zeros_(tagger.network.scores.bias)  # type: ignore[union-attr]
    (unsure,) = tagger.answer([text], [hits])
    assert ("Hugo", "CAT") in [(e.text, e.type) for e in unsure.entities]


def test_without_a_head_the_neighbours_answer_and_with_neither_nobody(encoder: Encoder) -> None:
    tagger = Reader.load(None, encoder).tagger("ner")
    hits = [TagHit("the pear of Ada is", ((12, 15, "PERSON"),))]
    (answer,) = tagger.answer(["the plum of Ada is"], [hits])
    assert [(e.text, e.type) for e in answer.entities] == [("Ada", "PERSON")]
    assert answer.support > 0.5
    (nothing,) = tagger.answer(["the plum of Ada is"], [[]])
    assert nothing.abstained
    assert nothing.entities == []


def test_a_cancelled_run_resumes_to_the_same_weights(encoder: Encoder, tmp_path: Path) -> None:
    rows = make(40)
    train_head(NerTraining(rows, quick(epochs=3), encoder, baseline=False), tmp_path / "whole")
    seen = 0

    def stop() -> bool:
        nonlocal seen
        seen += 1
        return seen == 8  # in the second epoch

    out = tmp_path / "resumed"
    with pytest.raises(TrainingCancelled):
        train_head(NerTraining(rows, quick(epochs=3), encoder, baseline=False), out, cancelled=stop)
    train_head(NerTraining(rows, quick(epochs=3), encoder, baseline=False), out)
    one, other = (load_heads(p)[1]["ner"].tensors for p in (tmp_path / "whole", out))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_heads_stay_bit_identical(trained: Path, encoder: Encoder, tmp_path: Path) -> None:
    head = load_heads(trained)[1]["ner"]
    report = train_head(
        NerTraining(
            make(30, seed=2),
            TagTrainConfig(field="second", epochs=1, batch_size=8, layers=1, rank=2),
            encoder,
        ),
        tmp_path / "both",
        base=trained,
    )
    assert "none" in report.metrics
    kept = load_heads(tmp_path / "both")[1]
    assert set(kept) == {"ner", "second"}
    assert all(torch.equal(kept["ner"].tensors[n], t) for n, t in head.tensors.items())


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ((), "none of the 1 rows"),
        (((0, 3, "A"), (2, 5, "B")), "overlap"),
        (((0, 99, "A"),), "overlap"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    encoder: Encoder, tmp_path: Path, entities: tuple[tuple[int, int, str], ...], message: str
) -> None:
    with pytest.raises(TrainingRefused, match=message):
        train_head(
            NerTraining([TagRow("a", "the pear", entities)], quick(), encoder), tmp_path / "x"
        )


def test_span_scores() -> None:
    truth = [[(0, 3, "A"), (5, 8, "B")], []]
    said = [[(0, 3, "A", 0.9), (5, 9, "B", 0.4)], [(1, 2, "A", 0.3)]]
    found = span_scores(truth, said)
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == 0.5
    assert found.by_type == {"A": pytest.approx(2 / 3), "B": 0.0}
