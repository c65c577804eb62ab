from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.inference.admission import Permits
from app.inference.batching import SIZES, in_sizes, similar_lengths
from app.inference.engine import Engine
from app.inference.model_thread import EngineClosed
from app.metrics import BatchStats
from app.problems import Problem
from model.checkpoint import HeadFiles, save_checkpoint
from model.config import HeadConfig
from model.encoder.encoder import Encoder
from model.labels.network import RetrievalAugmentedModel
from model.reader import Reader

WAIT = 20


@pytest.fixture
def seen() -> list[BatchStats]:
    return []


@pytest.fixture
def engine(encoder_folder: Path, seen: list[BatchStats]) -> Iterator[Engine]:
    engine = Engine(
        lambda: Reader.load(None, Encoder.load(str(encoder_folder))),
        max_tokens=64,
        batch_tokens=100,
        observe=seen.append,
    )
    engine.start().result(WAIT)
    yield engine
    engine.retire()
    assert engine.join(WAIT)


def blocked(engine: Engine) -> threading.Event:
    """Hold the model's thread until the event is set."""
    gate = threading.Event()
    engine.call(lambda reader: gate.wait(WAIT))
    return gate


def test_what_waits_is_read_together_within_the_budget(
    engine: Engine, seen: list[BatchStats]
) -> None:
    gate = blocked(engine)
    reads = [engine.read("apple pear", None) for _ in range(40)]
    gate.set()
    vectors = [read.result(WAIT).state.vector for read in reads]
    sizes = [stats.size for stats in seen if stats.kind == "read"]
    assert sum(sizes) == 40
    assert max(sizes) == 24  # of 4 tokens each: 25 are allowed, and go in parts of few sizes
    assert np.allclose(vectors, vectors[0], atol=1e-6)


def test_those_who_left_are_dropped(engine: Engine, seen: list[BatchStats]) -> None:
    gate = blocked(engine)
    reads = [engine.read("apple", None) for _ in range(4)]
    assert reads[1].cancel()
    assert reads[2].cancel()
    gate.set()
    for read in (reads[0], reads[3]):
        read.result(WAIT)
    assert sum(stats.size for stats in seen if stats.kind == "read") == 2


def test_requests_go_before_documents(engine: Engine, seen: list[BatchStats]) -> None:
    gate = blocked(engine)
    documents = engine.encode(["apple pear plum"] * 64)
    read = engine.read("apple", None)
    gate.set()
    assert documents.result(WAIT).shape == (64, 48)
    read.result(WAIT)
    assert seen[0].kind == "read"
    assert [stats.size for stats in seen[1:]] == [16, 16, 16, 16]


def test_a_retired_engine_ends_after_its_last_user(engine: Engine) -> None:
    with engine.use():
        engine.retire()
        engine.read("apple", None).result(WAIT)
        assert not engine.join(0.05)
    assert engine.join(WAIT)
    with pytest.raises(EngineClosed):
        engine.read("apple", None)


def test_a_failure_is_told_and_the_thread_lives_on(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda reader: 1 // 0).result(WAIT)
    engine.read("apple", None).result(WAIT)


def test_a_model_that_does_not_load_says_why() -> None:
    def load() -> Reader:
        raise RuntimeError("no such model")

    engine = Engine(load, max_tokens=8, batch_tokens=8)
    with pytest.raises(RuntimeError, match="no such model"):
        engine.start().result(WAIT)
    with pytest.raises(EngineClosed):
        engine.read("apple", None)


@given(st.lists(st.integers(1, 512), max_size=64))
def test_padding_at_most_doubles_the_work(lengths: list[int]) -> None:
    groups = similar_lengths(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        inside = [lengths[i] for i in group]
        assert max(inside) <= 2 * min(inside) + 8


def test_permits_are_given_back() -> None:
    permits = Permits(3)
    with permits.take(2):
        permits.check()
        with pytest.raises(Problem), permits.take(2):
            pass
        with permits.take(1), pytest.raises(Problem):
            permits.check()
    assert (permits.taken, permits.refused) == (0, 2)
    with permits.take(32):  # a batch larger than the queue, when nobody else is there
        assert permits.taken == 32


def test_a_long_text_is_read_in_windows_where_there_is_a_head(
    tmp_path: Path, encoder_folder: Path
) -> None:
    encoder = Encoder.load(str(encoder_folder))
    config = HeadConfig(
        field="label", labels=("a", "b"), encoder_sha256=encoder.sha256, dim=encoder.dim, layers=1
    )
    torch.manual_seed(0)
    head = HeadFiles(config, dict(RetrievalAugmentedModel(config, encoder).state_dict()), {})
    save_checkpoint(tmp_path / "v1", {"label": head}, encoder)
    engine = Engine(
        lambda: Reader.load(tmp_path / "v1", Encoder.load(str(encoder_folder))),
        max_tokens=16,
        windows=3,
        batch_tokens=64,
    )
    engine.start().result(WAIT)
    text = " ".join(f"apple {i % 10} hammer" for i in range(30))
    reads = {name: engine.read(text, name).result(WAIT).state for name in ("label", "other")}
    states, alone = reads["label"].states, reads["other"]
    assert alone.states is None
    whole = reads["label"].tokens
    assert 32 < whole <= 48
    assert alone.tokens == 16
    assert states is not None
    assert states.shape == (whole, encoder.dim)
    np.testing.assert_allclose(reads["label"].vector, alone.vector, atol=1e-5)
    direct = Reader.load(tmp_path / "v1", encoder)
    tokens = direct.tokenize(text, max_tokens=16, windows=3)
    torch.testing.assert_close(direct.read([tokens], ["label"], window=16)[0].states, states)
    # What stands at the end counts: it is among what is read, and was cut before.
    ends = [engine.read(f"{text} {word}", "label").result(WAIT).state for word in ("pear", "saw")]
    predictions = [engine.predict(s, [], "label", index_labels=()).result(WAIT) for s in ends]
    assert not np.array_equal(predictions[0].probs, predictions[1].probs)
    engine.retire()
    assert engine.join(WAIT)


def test_a_batch_goes_in_parts_of_few_sizes() -> None:
    for count in range(1, 300):
        parts = list(in_sizes(range(count)))
        assert [i for part in parts for i in part] == list(range(count))
        assert all(len(part) in SIZES for part in parts)
    assert [len(part) for part in in_sizes(range(31))] == [24, 6, 1]
    assert list(in_sizes([])) == []
