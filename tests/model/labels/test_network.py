from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import HeadConfig
from model.encoder.encoder import Encoder, mean_pool
from model.labels.gate import GATE_FEATURES, Gate, credit, gate_features, sharpen
from model.labels.memory import Retrieved, make_memory
from model.labels.neighbours import ABSENT, Neighbours, plain_vote
from model.labels.network import RetrievalAugmentedModel
from model.training.labels import train
from model.training.split import Row

LABELS = ("birds", "fruit", "tools")


def network(encoder: Encoder, seed: int = 0) -> RetrievalAugmentedModel:
    torch.manual_seed(seed)
    config = HeadConfig(
        field="label",
        labels=LABELS,
        encoder_sha256=encoder.sha256,
        dim=encoder.dim,
        layers=2,
        rank=4,
        k=6,
        fusion_k=4,
    )
    model = RetrievalAugmentedModel(config, encoder)
    torch.nn.init.normal_(model.fusion.up.weight, std=0.1)
    return model


def test_the_missions_loop_learns(encoder: Encoder, rows: list[Row]) -> None:
    """`train(model, data_loader, epochs, lr)`: SGD and cross-entropy on `model(x, docs)`."""
    batches = [
        (
            [row.text for row in rows[i : i + 15]],
            [row.hits for row in rows[i : i + 15]],
            torch.tensor([LABELS.index(str(row.label)) for row in rows[i : i + 15]]),
        )
        for i in range(0, 60, 15)
    ]
    losses = train(network(encoder), batches, epochs=4, lr=0.1)
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]


def test_forward_gives_log_probabilities(encoder: Encoder, rows: list[Row]) -> None:
    model = network(encoder).eval()
    out = model([row.text for row in rows[:5]], [row.hits for row in rows[:5]])
    assert out.shape == (5, 3)
    assert torch.allclose(out.exp().sum(-1), torch.ones(5), atol=1e-4)


def test_finding_nothing_is_a_normal_input(encoder: Encoder, rows: list[Row]) -> None:
    model = network(encoder).eval()
    texts = [row.text for row in rows[:3]]
    nothing = model(texts, [[], [], []])
    assert bool(nothing.isfinite().all())
    # A row that found nothing is not touched by what its batch found.
    mixed = model(texts, [[], rows[1].hits, []])
    assert torch.allclose(nothing[[0, 2]], mixed[[0, 2]], atol=1e-5)
    assert not torch.allclose(nothing[1], mixed[1], atol=1e-3)


def test_a_batch_never_changes_a_prediction(encoder: Encoder, rows: list[Row]) -> None:
    model = network(encoder).eval()
    together = model([row.text for row in rows[:8]], [row.hits[: i % 5] for i, row in
                     enumerate(rows[:8])])  # fmt: skip
    for i, row in enumerate(rows[:8]):
        alone = model([row.text], [row.hits[: i % 5]])
        assert torch.allclose(alone[0].exp(), together[i].exp(), atol=1e-5)


def test_gradients_reach_every_part_but_the_encoder(encoder: Encoder, rows: list[Row]) -> None:
    model = network(encoder)
    model([row.text for row in rows[:6]], [row.hits for row in rows[:6]]).mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["gate.novel"]  # no hit carries a label that is new to the head


def test_a_hit_without_a_vector_counts(encoder: Encoder, rows: list[Row]) -> None:
    hits = [Retrieved(None, "apple", "fruit", 3.0, None), Retrieved(None, "saw", None, 2.0, None)]
    base = torch.from_numpy(encoder.encode([rows[0].text]))
    vote = plain_vote(base, make_memory([hits], LABELS, encoder.dim, 8), 3)
    assert vote.probs[0].tolist() == [0.0, 1.0, 0.0]
    assert vote.weights[0].tolist() == [1.0, 0.0]


def test_repeated_hits_share_their_weight(encoder: Encoder) -> None:
    """Ten copies of one document do not outvote two that are nearer and differ."""
    texts = ["crow heron", "crow finch", "apple pear"]
    query, near, second = torch.from_numpy(encoder.encode(["crow swift", "crow", "swift"]))
    copies = torch.from_numpy(encoder.encode(texts[2:]))[0]
    hits = [
        Retrieved(None, "crow", "birds", 1.0, near.numpy()),
        Retrieved(None, "swift", "birds", 0.9, second.numpy()),
        *[Retrieved(None, texts[2], "fruit", 0.8, copies.numpy())] * 10,
    ]
    vote = plain_vote(query[None], make_memory([hits], LABELS, encoder.dim, 12), 3)
    assert int(vote.probs[0].argmax()) == 0


@given(st.integers(0, 6), st.integers(2, 5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_mixture_is_a_distribution(k: int, labels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, generator=generator) * 5
    weights = torch.rand(3, k, generator=generator)
    probs = torch.rand(3, labels, generator=generator)
    probs = probs / probs.sum(-1, keepdim=True) * (k > 0)
    found = torch.full((3,), k > 0)
    match = torch.where(probs > 0, probs, torch.tensor(ABSENT))
    mixed = Gate()(logits, Neighbours(weights, probs, weights, found, match, match))
    assert torch.allclose(mixed.probs.sum(-1), torch.ones(3), atol=1e-5)
    assert bool(((mixed.gate == 0) | found).all())


def test_a_label_that_the_head_does_not_know_gets_mass() -> None:
    probs = torch.tensor([[0.0, 0.0, 1.0]])
    one = torch.ones(1, 1)
    match = torch.tensor([[ABSENT, ABSENT, 0.9]])
    hits = Neighbours(one, probs, one, torch.tensor([True]), match, match)
    logits = torch.tensor([[2.0, 0.0]])
    mixed = Gate()(logits, hits)
    assert int(mixed.probs.argmax()) == 2
    far = hits._replace(
        match=torch.tensor([[0.9, 0.2, 0.3]]), cosine=torch.tensor([[0.9, 0.2, 0.3]])
    )
    assert int(Gate()(logits, far).probs.argmax()) == 0


def test_several_examples_of_a_new_label_say_more_than_one() -> None:
    """The same nearest hits, but the vote of all is more for the new label."""
    one, match = torch.ones(1, 1), torch.tensor([[0.7, 0.3, 0.6]])
    logits = torch.tensor([[1.0, 0.0]])

    def novelty(gate: Gate, vote: float) -> float:
        probs = torch.tensor([[1 - vote, 0.0, vote]])
        hits = Neighbours(one, probs, one, torch.tensor([True]), match, match)
        return float(gate(logits, hits).novelty.detach())

    gate, old = Gate(), Gate(5)
    for each in (gate, old):  # it is weighed 0 at first
        assert abs(novelty(each, 0.2) - novelty(each, 0.8)) < 1e-6
    with torch.no_grad():
        gate.novel[-1] = 0.6
    assert novelty(gate, 0.8) > novelty(gate, 0.2)


def test_a_head_from_before_the_vote_keeps_its_shape(encoder: Encoder) -> None:
    raw = network(encoder).config.to_json()
    del raw["novel"]
    before = RetrievalAugmentedModel(HeadConfig.from_json(raw), encoder)
    assert before.gate.novel.shape == (5,)


def test_credit_goes_to_the_hits_that_carry_the_answer(encoder: Encoder) -> None:
    vectors = encoder.encode(["crow", "apple", "stone"])
    labels = ("birds", "fruit", "minerals")
    hits = [Retrieved(None, n, n, 1.0, v) for n, v in zip(labels, vectors, strict=True)]
    memory = make_memory([hits], labels, encoder.dim, 3)
    vote = plain_vote(torch.from_numpy(vectors[2:]), memory, 3)
    mixed = Gate()(torch.tensor([[0.5, 0.0]]), vote)
    shares = credit(mixed, vote, memory, 2)
    assert torch.allclose(shares.sum(-1), mixed.gate, atol=1e-4)
    assert torch.allclose(shares[:, 2], mixed.novelty, atol=1e-4)


def test_temperature_keeps_the_order() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.1, 0.0]])
    for temperature in (0.5, 1.0, 3.0):
        out = sharpen(probs, torch.tensor(temperature))
        assert torch.equal(out.argsort(), probs.argsort())
        assert float(out[0, 3]) == 0.0
    assert torch.allclose(sharpen(probs, torch.tensor(1.0)), probs)


def test_gate_features_have_their_number() -> None:
    none = torch.zeros(2, 0)
    probs, found = torch.zeros(2, 3), torch.tensor([False, False])
    hits = Neighbours(none, probs, none, found, probs + ABSENT, probs + ABSENT)
    assert gate_features(torch.full((2, 3), 1 / 3), hits).shape == (2, GATE_FEATURES)


def test_pooling_skips_what_is_padded() -> None:
    h = torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, False, False]])
    assert torch.allclose(mean_pool(h, mask), mean_pool(h[:, :2], mask[:, :2]), atol=1e-6)


def test_the_fast_path_is_the_plain_one(encoder: Encoder, rows: list[Row]) -> None:
    """Averaged before the last linear maps; and one text over several lists of hits."""
    model = network(encoder).eval()
    fusion = model.fusion
    generator = torch.Generator().manual_seed(3)
    for b, texts in ((6, 6), (6, 1), (1, 1)):
        memory = make_memory([row.hits[: i + 1] for i, row in enumerate(rows[:b])], LABELS, 32, 6)
        h = torch.randn(texts, 7, 32, generator=generator)
        mask = torch.arange(7)[None, :] < torch.randint(2, 8, (texts, 1), generator=generator)
        plain, attention = fusion(h.expand(b, -1, -1), mask.expand(b, -1), memory)
        mean, share = fusion.mean(h, mask, memory)
        pooled = mean_pool(plain, mask.expand(b, -1))
        assert torch.allclose(torch.nn.functional.normalize(mean, dim=-1), pooled, atol=1e-5)
        assert torch.allclose(share, attention, atol=1e-6)
        assert share.shape == (b, min(4, b))
