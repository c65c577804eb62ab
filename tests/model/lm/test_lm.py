"""The language model: nothing looks ahead, nothing is counted twice, the cache changes nothing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from model.lm.config import PAD, SPECIAL, START, LMConfig
from model.lm.network import LMBatch, RetrievalLM
from model.lm.session import LMSession

VOCAB, CHUNK = 50, 4
Memory = Literal["none", "cross", "prefix"]


def tiny(memory: Memory = "cross", *, copy: bool = True, **changes: Any) -> RetrievalLM:
    """A small network whose layers all do something: none begins as the identity."""
    given: dict[str, Any] = {
        "dim": 16, "layers": 3, "heads": 2, "window": 16, "chunk": CHUNK, "copy_dim": 8,
        "cross_layers": (1,), "encoder_layers": 1, "k": 0 if memory == "none" else 2,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = RetrievalLM(LMConfig(VOCAB, memory, copy, **(given | changes)))
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


FORMS = [("none", True), ("cross", True), ("cross", False), ("prefix", True), ("prefix", False)]


@pytest.mark.parametrize(("memory", "copy"), FORMS)
def test_a_changed_future_changes_nothing_before_it(memory: Memory, copy: bool) -> None:
    model, batch, other = tiny(memory, copy=copy), a_batch(), a_batch()
    at = 2 * CHUNK + 1  # the token that is another one
    for part, shift in ((other.targets, 0), (other.inputs, 1)):
        flat = part.view(len(part), -1)
        flat[:, at + shift :] = (flat[:, at + shift :] - SPECIAL + 7) % (VOCAB - SPECIAL) + SPECIAL
    with torch.no_grad():
        a, b = model(batch).flatten(1), model(other).flatten(1)
    assert torch.equal(a[:, :at], b[:, :at])
    assert not torch.allclose(a[:, at:], b[:, at:])


@pytest.mark.parametrize(("memory", "copy"), FORMS)
def test_passages_of_a_chunk_are_seen_by_that_chunk_and_what_follows(
    memory: Memory, copy: bool
) -> None:
    model, batch, other = tiny(memory, copy=copy), a_batch(1), a_batch(1)
    batch.places[0, 2], other.places[0, 2] = torch.tensor([0, 3]), torch.tensor([2, -1])
    with torch.no_grad():
        a, b = model(batch)[0], model(other)[0]
    assert torch.allclose(a[:2], b[:2], atol=1e-6)
    assert torch.allclose(a[2], b[2]) == (memory == "none")


@pytest.mark.parametrize(("memory", "copy"), FORMS)
def test_probabilities_sum_to_one_and_say_what_the_loss_says(memory: Memory, copy: bool) -> None:
    model, batch = tiny(memory, copy=copy), a_batch()
    said = every_token(model, batch)
    assert torch.allclose(said.exp().sum(-1), torch.ones(said.shape[:-1]), atol=1e-5)
    assert float(said[..., :SPECIAL].exp().max()) < 1e-6  # never PAD, never START
    chosen = said.gather(-1, batch.targets[..., None]).squeeze(-1)
    assert torch.allclose(chosen, model(batch), atol=1e-4)


def every_token(model: RetrievalLM, batch: LMBatch) -> torch.Tensor:
    from model.lm.network import window_bias

    with torch.no_grad():
        memory = model.read(batch.passages, batch.places)
        near = window_bias(batch.document, CHUNK)
        x, targets, _ = model.decode(batch.inputs, near, memory)
        return model.log_probs(x, targets)


def test_the_copy_head_gives_a_token_that_only_a_passage_holds_its_weight() -> None:
    model, batch = tiny(), a_batch(1)
    model.copy.sentinel.bias.data.fill_(-50.0)  # type: ignore[union-attr]
    batch.places[:] = torch.tensor([0, -1])
    batch.passages[0] = SPECIAL + 1
    said = every_token(model, batch)
    in_view = {SPECIAL + 1, *batch.inputs.flatten().tolist()}
    outside = [i for i in range(SPECIAL, VOCAB) if i not in in_view]
    assert float(said[..., outside].exp().max()) < 1e-6
    assert float(said[0, 0, 0, SPECIAL + 1].exp()) == pytest.approx(1, abs=1e-5)


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
        said = model(batch)[0]
    assert said[3, 2:].tolist() == [0.0, 0.0]
    assert bool((said[:3] < 0).all())


def test_nothing_retrieved_is_a_normal_input() -> None:
    for memory in ("cross", "prefix"):
        model, batch = tiny(memory), a_batch()
        batch.places[:] = -1
        with torch.no_grad():
            assert bool(torch.isfinite(model(batch)).all())


@pytest.mark.parametrize(("memory", "copy"), FORMS)
def test_the_cache_gives_what_one_pass_gives(memory: Memory, copy: bool) -> None:
    model, batch = tiny(memory, copy=copy), a_batch(1)
    count = 0 if memory == "none" else 2
    batch.places[:] = torch.tensor([0, 3]) if count else -1
    whole = every_token(model, batch).flatten(0, 2)
    passages = batch.passages[[0, 3]].tolist()[:count]
    ids = batch.inputs.flatten().tolist()
    session = LMSession.begin(model, passages)
    for sizes in ([len(ids)], [5, 3, 8], [1] * len(ids)):
        session, at = LMSession.begin(model, passages), 0
        for size in sizes:
            said = session.feed(ids[at : at + size])
            at += size
            assert torch.allclose(said, whole[at - 1], atol=1e-4)


def test_beyond_the_window_the_newest_half_is_read_again() -> None:
    model = tiny()
    random = np.random.default_rng(1)
    ids = [int(i) for i in random.integers(SPECIAL, VOCAB, model.config.window + 1)]
    long, short = LMSession.begin(model), LMSession.begin(model)
    said = long.feed(ids)
    half = model.config.window // 2
    assert torch.allclose(said, short.feed(ids[-half - 1 :]), atol=1e-5)


@pytest.mark.parametrize(("memory", "copy"), [("none", True), ("cross", True), ("cross", False)])
def test_texts_that_share_a_pass_are_written_as_alone(memory: Memory, copy: bool) -> None:
    model = tiny(memory, copy=copy)
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
            said = batch.step([steps[i][at[i]] for i in rows])
            for row, i in enumerate(rows):
                assert torch.allclose(said[row], alone[i][at[i]], atol=1e-4), (i, at[i])
                at[i] += 1

    for i, start in enumerate(starts):  # each joins when the others have gone further
        one = LMSession.begin(model, passages[i])
        one.feed(start)
        batch = one if batch is None else batch.joined(one)
        rows.append(i)
        go(4)
    go(10)  # beyond the window of the first
    assert batch is not None
    batch, rows = batch.kept([2, 1]), [2, 1]  # one leaves, and they change places
    go(8)


def test_a_configuration_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        LMConfig(VOCAB, window=100, chunk=64)
    with pytest.raises(ValueError, match="k is 0"):
        LMConfig(VOCAB, "none")
    config = LMConfig(VOCAB, cross_layers=(0, 2))
    assert LMConfig.from_json(config.to_json()) == config
