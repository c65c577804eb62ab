from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from model.encoder.bert_stack import BertStack
from model.encoder.encoder import Encoder, mean_pool
from model.scratch.data import hide
from model.scratch.tokenizer import (
    IGNORED,
    MASK,
    ScratchConfig,
    ScratchText,
    loosen,
    spelled,
    token_tags,
    train_tokenizer,
)
from model.scratch.train import train_encoder
from model.training.trainer import TrainingCancelled

TOPICS = {"水果": "苹果梨子葡萄西瓜樱桃", "工具": "锤子锯条扳手钳夹凿刀"}
SMALL = ScratchConfig(
    vocabulary=60, layers=1, dim=32, heads=2, max_tokens=32, epochs=6, batch_size=8, lr=3e-3
)


def corpus(each: int = 24) -> tuple[list[str], list[str]]:
    """Titles of two topics, of characters that a topic alone has and of some that both have."""
    chance = random.Random(0)
    texts, labels = [], []
    for topic, letters in TOPICS.items():
        for _ in range(each):
            texts.append("今天买" + "".join(chance.choices(letters, k=5)) + "很好")
            labels.append(topic)
    return texts, labels


def labelled(texts: list[str], labels: list[str]) -> list[ScratchText]:
    return [ScratchText(text, label) for text, label in zip(texts, labels, strict=True)]


@pytest.mark.parametrize("kind", ["unigram", "characters"])
def test_tokenizers_are_total_and_mark_both_ends(kind: Any) -> None:
    tokenizer = train_tokenizer(corpus()[0], ScratchConfig(vocabulary=60, tokenizer=kind))
    for text in ("今天买苹果", "", "👍🏽 e\u0301", "Ａ1 b"):
        ids = tokenizer.encode(text).ids
        assert ids[0] == 2
        assert ids[-1] == 3
    pair = tokenizer.encode("苹果", "锤子")
    assert set(pair.type_ids) == {0, 1}
    if kind == "characters":
        assert len(tokenizer.encode("苹果").ids) == 4
    with pytest.raises(ValueError, match="syllables"):
        train_tokenizer(["a"], ScratchConfig(tokenizer="syllables"))  # type: ignore[arg-type]


def test_hiding_never_touches_marks_or_padding() -> None:
    torch.manual_seed(0)
    ids = torch.randint(5, 50, (40, 30))
    ids[:, 0], ids[:, -5:] = 2, 0
    mask = ids != 0
    hidden, truths = hide(ids, mask, 0.3, 50)
    chosen = truths != IGNORED
    assert 0.2 < float(chosen[:, 1:-5].float().mean()) < 0.4
    assert not bool(chosen[:, 0].any() | chosen[:, -5:].any())
    assert bool((hidden[~chosen] == ids[~chosen]).all())
    assert 0.7 < float((hidden[chosen] == MASK).float().mean()) < 0.9
    assert bool((truths[chosen] == ids[chosen]).all())


def test_an_encoder_whose_neighbours_share_their_label(tmp_path: Path) -> None:
    texts, labels = corpus()
    report = train_encoder(labelled(texts, labels), SMALL, tmp_path / "zh")
    assert report.labels == 2
    assert report.losses["labels"] < 0.3
    encoder = Encoder.load(str(tmp_path / "zh"))
    assert encoder.dim == 32
    chance = random.Random(5)
    fresh = ["今天买" + "".join(chance.choices(letters, k=5)) for letters in TOPICS.values()]
    near = encoder.encode(fresh) @ encoder.encode(texts).T
    assert [labels[i] for i in near.argmax(1)] == list(TOPICS)


@pytest.mark.parametrize(("positions", "kind"), [("rotary", "roformer"), ("learned", "bert")])
def test_texts_without_labels_are_enough(tmp_path: Path, positions: Any, kind: str) -> None:
    config = dataclasses.replace(SMALL, position_encoding=positions)
    report = train_encoder([ScratchText(t) for t in corpus()[0]], config, tmp_path / "zh")
    assert report.losses.keys() == {"masked", "pairs"}
    encoder = Encoder.load(str(tmp_path / "zh"))
    assert isinstance(encoder.stack, BertStack)
    library = AutoModel.from_pretrained(tmp_path / "zh").eval()
    assert library.config.model_type == kind
    ids, mask = encoder.pad(encoder.tokenize(["苹果", "今天买锤子锯条很好"]))
    with torch.no_grad():
        states = library(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    expected = mean_pool(states, mask).numpy()
    assert np.abs(encoder.encode(["苹果", "今天买锤子锯条很好"]) - expected).max() < 1e-5


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    texts, labels = corpus(12)
    steps: list[Any] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == 8

    with pytest.raises(TrainingCancelled):
        train_encoder(labelled(texts, labels), SMALL, tmp_path / "cut", cancelled=stop)
    assert not (tmp_path / "cut").exists()
    # Two trainings of a unigram tokenizer may differ in the last place.
    (tmp_path / ".whole.training").mkdir()
    for name in ("tokenizer.json", "run.sha256"):
        shutil.copy(tmp_path / ".cut.training" / name, tmp_path / ".whole.training")
    train_encoder(labelled(texts, labels), SMALL, tmp_path / "whole")
    train_encoder(labelled(texts, labels), SMALL, tmp_path / "cut")
    whole, cut = (Encoder.load(str(tmp_path / n)).encode(texts[:4]) for n in ("whole", "cut"))
    assert np.abs(whole - cut).max() < 1e-5
    with pytest.raises(ValueError, match="there already"):
        train_encoder(labelled(texts, labels), SMALL, tmp_path / "cut")
    with pytest.raises(ValueError, match="two texts"):
        train_encoder([ScratchText("a"), ScratchText(" ")], SMALL, tmp_path / "few")


def test_a_cut_run_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    texts, labels = corpus(12)
    with pytest.raises(TrainingCancelled):
        train_encoder(labelled(texts, labels), SMALL, tmp_path / "zh", cancelled=lambda: True)
    wider = dataclasses.replace(SMALL, dim=48)
    assert train_encoder(labelled(texts, labels), wider, tmp_path / "zh").config["dim"] == 48
    assert Encoder.load(str(tmp_path / "zh")).dim == 48


def test_pieces_are_loosened_into_their_characters(tmp_path: Path) -> None:
    texts, labels = corpus()
    config = dataclasses.replace(SMALL, vocabulary=120, loosened=0.5)
    tokenizer = train_tokenizer(texts, config)
    letters = spelled(tokenizer)
    ids = tokenizer.encode(texts[0]).ids
    assert any(number in letters for number in ids)
    whole = loosen(ids, letters, dataclasses.replace(config, loosened=0.0), random.Random(0))
    apart = loosen(ids, letters, dataclasses.replace(config, loosened=1.0), random.Random(0))
    assert whole == ids
    assert len(apart) > len(ids)
    assert not {*apart} & {*letters}
    assert tokenizer.decode(apart).replace(" ", "") == tokenizer.decode(ids).replace(" ", "")
    short = dataclasses.replace(config, loosened=1.0, max_tokens=5)
    assert len(loosen(ids, letters, short, random.Random(0))) == 5
    assert loosen(ids, letters, short, random.Random(0))[-1] == ids[-1]
    assert train_encoder(labelled(texts, labels), config, tmp_path / "zh").losses["labels"] < 0.6


def test_tags_of_tokens() -> None:
    spans = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (0, 0)]
    place = {"LOC": 0, "PER": 1}
    assert token_tags(spans, [(1, 3, "PER"), (3, 4, "LOC")], place) == [
        IGNORED, 0, 3, 4, 1, IGNORED,
    ]  # fmt: skip
    assert token_tags(spans, (), place) == [IGNORED, 0, 0, 0, 0, IGNORED]
    assert token_tags(spans, None, place) == [IGNORED] * 6


def test_an_encoder_is_taught_by_entities(tmp_path: Path) -> None:
    """The same characters are a name behind one verb and none behind another."""
    chance = random.Random(0)
    rows = []
    for verb in "找买" * 40:
        text = f"今天{verb}{''.join(chance.choices('甲乙丙丁戊', k=2))}来"
        rows.append(ScratchText(text, None, [(3, 5, "PER")] if verb == "找" else []))
    rows += [ScratchText(row.text) for row in rows[:8]]
    config = dataclasses.replace(SMALL, tokenizer="characters", epochs=16, pairs=False)
    report = train_encoder(rows, config, tmp_path / "zh")
    assert report.entity_types == 1
    assert report.losses.keys() == {"masked", "tags"}
    assert report.losses["tags"] < 0.12  # one who looks at no verb: 0.23
