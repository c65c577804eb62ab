"""Pre-training: resumed as if never interrupted, learned from passages, measured without loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.fx.experimental._config as fx_config

from model.folders import CheckpointRefused
from model.lm.checkpoint import load_lm, save_lm
from model.lm.config import PAD, SPECIAL, START, LMConfig, PretrainConfig
from model.lm.corpus import LMCorpus, make_corpus
from model.lm.evaluation import evaluation_rows, spread, token_nats
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer
from model.lm.training import Rows, pretrain, steps_of
from model.training.curves import read_curve
from model.training.trainer import Ticker, TrainingCancelled

CHUNK, VOCAB = 4, 40
SHAPE = LMConfig(VOCAB, dim=16, layers=2, heads=2, window=16, chunk=CHUNK, copy_dim=8, copy_layer=1)
RUN = PretrainConfig(
    tokens=64 * 24, batch_tokens=64, lr=1e-2, save_every=5, evaluate_every=8, evaluate_chunks=8
)


def a_corpus(documents: int = 12, *, splits: str = "train") -> LMCorpus:
    random = np.random.default_rng(0)
    ids = [
        random.integers(SPECIAL, VOCAB, random.integers(3, 30)).astype(np.uint16)
        for _ in range(documents)
    ]
    named = [
        (str(i), "a", "dev" if i == 0 else "test" if i == 1 else splits) for i in range(documents)
    ]
    corpus = make_corpus(named, ids, CHUNK, 2, {})
    corpus.neighbours[:] = random.integers(-1, len(corpus.tokens), corpus.neighbours.shape)
    return corpus


def a_model(seed: int = 0) -> RetrievalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RetrievalLM(SHAPE)


def run(model: RetrievalLM, folder: Path, corpus: LMCorpus, *, until: int | None = None) -> None:
    total = steps_of(SHAPE, RUN)
    ticker = Ticker(total)
    if until is not None:
        ticker.cancelled = lambda: ticker.step >= until
    pretrain(model, corpus, RUN, folder, ticker, np.full(VOCAB, 4))


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    corpus = a_corpus()
    whole, torn = a_model(), a_model()
    run(whole, tmp_path / "whole", corpus)
    with pytest.raises(TrainingCancelled):
        run(torn, tmp_path / "torn", corpus, until=13)  # the newest state is of step 10
    again = a_model(seed=5)
    run(again, tmp_path / "torn", corpus)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    a, b = read_curve(tmp_path / "whole"), read_curve(tmp_path / "torn")
    assert a == b
    assert [p["step"] for p in a if "loss" in p] == list(range(24))
    assert [p["step"] for p in a if "held_out_on" in p] == [7, 15, 23]


def test_it_learns_to_take_from_passages_what_only_they_hold(tmp_path: Path) -> None:
    # Each document repeats a random one: what comes next is known from the passage alone.
    random = np.random.default_rng(1)
    ids = [random.integers(SPECIAL, VOCAB, 16).astype(np.uint16) for _ in range(150)]
    named = [(f"{i}", "a", "train") for i in range(300)]
    corpus = make_corpus(named, [*ids, *ids], CHUNK, 2, {})
    half = len(corpus.tokens) // 2
    corpus.neighbours[half:, 0] = np.arange(half)
    corpus.neighbours[:half, 0] = np.arange(half) + half
    run_long = PretrainConfig(tokens=64 * 400, batch_tokens=256, lr=1e-2, save_every=400)
    model = a_model()
    ticker = Ticker(steps_of(SHAPE, run_long))
    pretrain(model, corpus, run_long, tmp_path, ticker, np.ones(VOCAB, dtype=np.int64))
    chunks = np.arange(40)
    on = token_nats(model, corpus, chunks).mean()
    off = token_nats(model, corpus, chunks, closed_book=True).mean()
    assert on < off - 0.5


def test_every_chunk_is_trained_on_once_an_epoch() -> None:
    corpus = a_corpus(splits="train")
    rows = Rows(corpus, SHAPE, 3, seed=4)
    for epoch in (0, 1):
        steps = range(epoch * rows.per_epoch, (epoch + 1) * rows.per_epoch)
        seen = np.concatenate([rows.of_step(step).ravel() for step in steps])
        assert sorted(seen[seen >= 0].tolist()) == corpus.chunks_of("train").tolist()


def test_every_wanted_chunk_is_scored_once_with_what_stands_before_it() -> None:
    corpus = a_corpus()
    wanted = np.concatenate([corpus.chunks_of("train")[::3], corpus.chunks_of("test")])
    rows, scored, places = evaluation_rows(corpus, wanted, 4)
    assert sorted(places.tolist()) == list(range(len(wanted)))
    assert rows[scored].tolist() == wanted[places].tolist()
    for row in rows:
        there = row[row >= 0]
        assert len({*corpus.document[there].tolist()}) == 1
        assert there.tolist() == list(range(there[0], there[0] + len(there)))
    assert len(spread(corpus.chunks_of("train"), 16)) <= 16


def test_rows_hold_what_the_document_holds() -> None:
    corpus = a_corpus()
    first, end = corpus.documents[3].first, corpus.documents[3].end
    row = np.full((1, 4), -1, dtype=np.int64)
    row[0, : min(4, end - first)] = np.arange(first, min(end, first + 4))
    batch = corpus.batch(row, SHAPE)
    tokens = corpus.tokens[first : min(end, first + 4)].ravel()
    flat = batch.targets.flatten().tolist()
    there = [int(t) for t in tokens if t != PAD]
    assert flat[: len(there)] == there
    assert batch.inputs.flatten().tolist()[: len(there)] == [START, *there[:-1]]
    for i, neighbours in enumerate(corpus.neighbours[row[0]]):
        for j, neighbour in enumerate(neighbours):
            place = int(batch.places[0, i, j])
            if row[0, i] < 0 or neighbour < 0:
                assert place == -1
            else:
                found = batch.passages[place].tolist()[:CHUNK]
                assert found == corpus.tokens[neighbour].tolist()


TEXTS = [
    "It is a truth universally acknowledged.\n\n  Two  spaces\ttab\r\n",
    "naïve café — 你好,世界 🙂 <|pad|> <|doc|> \u0000 end",
    "a\u0301 e\u0301 \ufeff",
]


def test_the_tokenizer_loses_nothing_and_knows_how_long_its_tokens_are() -> None:
    for vocab in (300, 400):
        tokenizer = LMTokenizer.train(TEXTS * 3, vocab)
        lengths = tokenizer.byte_lengths()
        again = LMTokenizer.from_json(tokenizer.to_json())
        for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
            assert tokenizer.decode(ids) == again.decode(ids) == text
            assert int(lengths[ids].sum()) == len(text.encode())
            assert int(ids.min()) >= SPECIAL
    (ids,) = tokenizer.encode(["lone \ud800"])
    assert tokenizer.decode(ids) == "lone ?"


def test_bits_per_byte_do_not_hang_on_the_tokens() -> None:
    # A model that gives each byte the same chance has 8 bits a byte, however it cuts the text.
    text = TEXTS[0] * 20
    for vocab in (258, 400):
        tokenizer = LMTokenizer.train([text], vocab)
        (ids,) = tokenizer.encode([text])
        nats = tokenizer.byte_lengths()[ids] * np.log(256)
        assert nats.sum() / np.log(2) / len(text.encode()) == pytest.approx(8.0)


def test_a_checkpoint_comes_back_and_a_changed_one_does_not(tmp_path: Path) -> None:
    tokenizer = LMTokenizer.train(TEXTS, 280)
    with torch.random.fork_rng(devices=[]):
        model = RetrievalLM(LMConfig(tokenizer.vocab, dim=16, heads=2, copy_dim=8)).eval()
    save_lm(tmp_path / "lm", model, tokenizer, {"note": 1})
    again, words, report = load_lm(tmp_path / "lm")
    assert report == {"note": 1}
    assert words.vocab == tokenizer.vocab
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(CheckpointRefused, match="already"):
        save_lm(tmp_path / "lm", model, tokenizer, {})
    path = tmp_path / "lm" / "config.json"
    path.write_text(path.read_text().replace('"heads": 2', '"heads": 4'))
    with pytest.raises(CheckpointRefused, match=r"config\.json"):
        load_lm(tmp_path / "lm")


@pytest.mark.parametrize("k", [2, 0])
def test_a_step_makes_no_tensor_on_another_device(k: int) -> None:
    # Where no GPU is at hand: on `meta` a tensor that was made elsewhere is refused, as on a GPU.
    shape = replace(SHAPE, k=k)
    corpus, meta = a_corpus(), torch.device("meta")
    batch = corpus.batch(Rows(corpus, shape, 4, 0).of_step(0), shape).to(meta)
    model = RetrievalLM(shape).to(meta)
    # How many targets there are is not known there.
    with fx_config.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
        log_probs = model(batch)
        log_probs.sum().backward()
    assert log_probs.device == meta
    assert {p.grad.device for p in model.parameters() if p.grad is not None} == {meta}
