"""The language model: nothing looks ahead, nothing is counted twice, the cache changes nothing."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from model.lm.config import PAD, SPECIAL, START, LMConfig
from model.lm.network import LMBatch, RetrievalLM, window_bias
from model.lm.session import LMSession

VOCAB, CHUNK = 50, 4


def tiny(k: int = 2) -> RetrievalLM:
    """A small network whose layers all do something: none begins as the identity."""
    config = LMConfig(VOCAB, dim=16, layers=3, heads=2, window=16, chunk=CHUNK, copy_dim=8, k=k)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = RetrievalLM(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def a_batch(b: int = 2, n: int = 4, *, seed: int = 0) -> LMBatch:
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(SPECIAL, VOCAB, (b, n, CHUNK), generator=random)
    inputs = torch.cat([torch.full((b, 1), START), targets.flatten(1)[:, :-1]], 1)
    passages = torch.randint(SPECIAL, VOCAB, (5, 2 * CHUNK), generator=random)
    passages[1, 5:] = PAD
    places = torch.randint(-1, 5, (b, n, 2), generator=random)
    return LMBatch(
        inputs.view(b, n, CHUNK), targets, torch.zeros(b, n, dtype=torch.long), passages, places
    )


passages_or_none = pytest.mark.parametrize("k", [2, 0])


@passages_or_none
def test_a_changed_future_changes_nothing_before_it(k: int) -> None:
    model, batch, other = tiny(k), a_batch(), a_batch()
    at = 2 * CHUNK + 1  # the token that is another one
    for part, shift in ((other.targets, 0), (other.inputs, 1)):
        flat = part.view(len(part), -1)
        flat[:, at + shift :] = (flat[:, at + shift :] - SPECIAL + 7) % (VOCAB - SPECIAL) + SPECIAL
    with torch.no_grad():
        a, b = model(batch).flatten(1), model(other).flatten(1)
    assert torch.equal(a[:, :at], b[:, :at])
    assert not torch.allclose(a[:, at:], b[:, at:])


@passages_or_none
def test_passages_of_a_chunk_are_seen_by_that_chunk_and_what_follows(k: int) -> None:
    model, batch, other = tiny(k), a_batch(1), a_batch(1)
    batch.places[0, 2], other.places[0, 2] = torch.tensor([0, 3]), torch.tensor([2, -1])
    with torch.no_grad():
        a, b = model(batch)[0], model(other)[0]
    assert torch.allclose(a[:2], b[:2], atol=1e-6)
    assert torch.allclose(a[2], b[2]) == (k == 0)


@passages_or_none
def test_probabilities_sum_to_one_and_say_what_the_loss_says(k: int) -> None:
    model, batch = tiny(k), a_batch()
    log_probs = every_token(model, batch)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:-1]), atol=1e-5)
    assert float(log_probs[..., :SPECIAL].exp().max()) < 1e-6  # never PAD, never START
    chosen = log_probs.gather(-1, batch.targets.flatten(1)[..., None]).squeeze(-1)
    assert torch.allclose(chosen, model(batch).flatten(1), atol=1e-4)


def every_token(model: RetrievalLM, batch: LMBatch) -> torch.Tensor:
    """Log-probabilities [b, t, v]."""
    with torch.no_grad():
        memory = model.read(batch.passages, batch.places)
        near = window_bias(batch.document, CHUNK)
        x, targets, _ = model.decode(batch.inputs.flatten(1), near, memory)
        return model.log_probs(x, targets)


def test_the_copy_head_gives_a_token_that_only_a_passage_holds_its_weight() -> None:
    model, batch = tiny(), a_batch(1)
    model.copy.sentinel.bias.data.fill_(-50.0)
    batch.places[:] = torch.tensor([0, -1])
    batch.passages[0] = SPECIAL + 1
    probs = every_token(model, batch).exp()
    in_view = {SPECIAL + 1, *batch.inputs.flatten().tolist()}
    outside = [i for i in range(SPECIAL, VOCAB) if i not in in_view]
    assert float(probs[..., outside].max()) < 1e-6
    assert float(probs[0, 0, SPECIAL + 1]) == pytest.approx(1, abs=1e-5)


def test_documents_of_one_row_do_not_see_each_other() -> None:
    model, batch, other = tiny(), a_batch(1), a_batch(1)
    for one in (batch, other):
        one.document[0] = torch.tensor([0, 0, 1, 1])
        one.inputs[0, 2, 0] = START
    other.inputs[0, :2], other.targets[0, :2] = SPECIAL + 3, SPECIAL + 4
    with torch.no_grad():
        assert torch.equal(model(batch)[0, 2:], model(other)[0, 2:])


def test_padding_is_not_predicted_and_does_not_count() -> None:
    model, batch = tiny(), a_batch(1)
    batch.targets[0, 3, 2:] = PAD
    with torch.no_grad():
        log_probs = model(batch)[0]
    assert log_probs[3, 2:].tolist() == [0.0, 0.0]
    assert bool((log_probs[:3] < 0).all())


def test_nothing_retrieved_is_a_normal_input() -> None:
    model, batch = tiny(), a_batch()
    batch.places[:] = -1
    with torch.no_grad():
        assert bool(torch.isfinite(model(batch)).all())


@passages_or_none
def test_the_cache_gives_what_one_pass_gives(k: int) -> None:
    model, batch = tiny(k), a_batch(1)
    batch.places[:] = torch.tensor([0, 3]) if k else -1
    whole = every_token(model, batch)[0]
    passages = batch.passages[[0, 3]].tolist()[:k]
    ids = batch.inputs.flatten().tolist()
    session = LMSession.begin(model, passages)
    for sizes in ([len(ids)], [5, 3, 8], [1] * len(ids)):
        session, at = LMSession.begin(model, passages), 0
        for size in sizes:
            log_probs = session.feed(ids[at : at + size])
            at += size
            assert torch.allclose(log_probs, whole[at - 1], atol=1e-4)


def test_beyond_the_window_the_newest_half_is_read_again() -> None:
    model = tiny()
    random = np.random.default_rng(1)
    ids = [int(i) for i in random.integers(SPECIAL, VOCAB, model.config.window + 1)]
    long, short = LMSession.begin(model), LMSession.begin(model)
    log_probs = long.feed(ids)
    half = model.config.window // 2
    assert torch.allclose(log_probs, short.feed(ids[-half - 1 :]), atol=1e-5)


@passages_or_none
def test_texts_that_share_a_pass_are_written_as_alone(k: int) -> None:
    model = tiny(k)
    random = np.random.default_rng(2)

    def some(count: int) -> list[int]:
        return [int(i) for i in random.integers(SPECIAL, VOCAB, count)]

    starts, steps = [some(9), some(3), some(1)], [some(30) for _ in range(3)]
    passages: list[list[list[int]]] = [[some(6), some(8)], [], [some(4)]]
    alone = []
    for start, known, read in zip(starts, steps, passages, strict=True):
        session = LMSession.begin(model, read)
        session.feed(start)
        alone.append([session.step([token])[0] for token in known])

    rows: list[int] = []  # which text a row is
    at = [0, 0, 0]
    batch: LMSession | None = None

    def go(count: int) -> None:
        assert batch is not None
        for _ in range(count):
            log_probs = batch.step([steps[i][at[i]] for i in rows])
            for row, i in enumerate(rows):
                assert torch.allclose(log_probs[row], alone[i][at[i]], atol=1e-4), (i, at[i])
                at[i] += 1

    for i, start in enumerate(starts):  # each joins when the others have gone further
        one = LMSession.begin(model, passages[i])
        one.feed(start)
        batch = one if batch is None else batch.joined(one)
        rows.append(i)
        go(4)
    go(10)  # beyond the window of the first
    assert batch is not None
    batch, rows = batch.selected([2, 1]), [2, 1]  # one leaves, and they change places
    go(8)


def test_a_configuration_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        LMConfig(VOCAB, window=100, chunk=64)
    with pytest.raises(ValueError, match="copy_layer 5 of 4"):
        LMConfig(VOCAB, copy_layer=5)
    config = LMConfig(VOCAB, layers=6, k=3)
    assert LMConfig.from_json(asdict(config)) == config


def test_a_configuration_from_before_is_read_where_its_network_is_that_of_now() -> None:
    form = {"memory": "cross", "copy": True, "cross_layers": [], "encoder_layers": 0}
    config = LMConfig(VOCAB)
    assert LMConfig.from_json(asdict(config) | form) == config
    window = LMConfig(VOCAB, k=0)
    assert LMConfig.from_json(asdict(window) | form | {"memory": "none"}) == window
    for removed in (
        {"memory": "prefix"}, {"copy": False}, {"cross_layers": [1, 3]}, {"encoder_layers": 1}
    ):  # fmt: skip
        ((name, value),) = removed.items()
        with pytest.raises(ValueError, match=rf"{name} is .*397991a") as error:
            LMConfig.from_json(asdict(config) | form | removed)
        assert repr(value) in str(error.value)
    with pytest.raises(TypeError, match="depth"):
        LMConfig.from_json(asdict(config) | {"depth": 3})
