from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.instant.grams import characters, words
from benchmarks.instant.head import Document, InstantHead
from benchmarks.instant.pool import PARTS, Pool, log_loss, prior_weights, softmax
from model.metrics import calibration_error

WIDTH = 16
TOPICS = {"fruit": ["apple", "pear", "plum"], "tools": ["saw", "drill"], "birds": ["crow", "finch"]}
NOISE = ["the", "a", "very", "of", "apple", "crow", "saw"]


def documents(n: int, seed: int = 0, start: int = 0) -> list[Document]:
    """Sentences with a word of their topic between noise, and noisy vectors of it."""
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(TOPICS), WIDTH)) * 0.4
    out = []
    for i in range(n):
        topic = i % len(TOPICS)
        name = sorted(TOPICS)[topic]
        text = " ".join(rng.sample(NOISE, 3) + [rng.choice(TOPICS[name])])
        vector = centres[topic] + draw.normal(size=WIDTH)
        vector /= np.linalg.norm(vector)
        out.append(Document(f"d{start + i}", text, vector.astype(np.float32), name))
    return out


def filled(rows: list[Document]) -> InstantHead:
    head = InstantHead(WIDTH)
    head.add(*rows)
    return head


def asked(head: InstantHead, rows: list[Document]) -> list[dict[str, float]]:
    answers = (head.predict(row.text, row.vector) for row in rows)
    return [dict(zip(labels, p.tolist(), strict=True)) for labels, p in answers]


def test_nothing_is_known_of_nothing() -> None:
    head = InstantHead(WIDTH)
    row = documents(1)[0]
    assert head.predict(row.text, row.vector)[0] == []
    head.fit()
    assert head.leave_one_out().accuracy == 0.0


def test_a_document_is_known_at_once() -> None:
    head = filled(documents(9))
    new = Document("new", "zebra", np.eye(WIDTH, dtype=np.float32)[0], "beasts")
    head.add(new)
    labels, p = head.predict("zebra", new.vector)
    assert labels[int(p.argmax())] == "beasts"
    head.remove("new")
    assert "beasts" not in head.predict("zebra", new.vector)[0]


@pytest.mark.parametrize("count", [1, 5, 80])
def test_adding_and_removing_is_exact(count: int) -> None:
    rows = documents(60)
    head = filled(rows)
    head.fit()
    before = asked(head, rows[:10])
    more = documents(count, seed=3, start=1000)
    head.add(*more)
    head.remove(*(row.id for row in more))
    for one, other in zip(before, asked(head, rows[:10]), strict=True):
        assert other == pytest.approx(one, abs=1e-9)


def test_order_and_batches_do_not_show() -> None:
    rows = documents(90)
    one, other = filled(rows), InstantHead(WIDTH)
    for row in reversed(rows):
        other.add(row)
    for head in (one, other):
        head.fit()
    for a, b in zip(asked(one, rows[:10]), asked(other, rows[:10]), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_a_known_id_is_replaced() -> None:
    rows = documents(30)
    head = filled(rows)
    head.add(rows[0]._replace(label="birds"))
    assert len(head) == 30
    with pytest.raises(KeyError):
        head.remove("unknown")


def test_leaving_one_out_is_removing_and_asking() -> None:
    rows = documents(40)
    head = filled(rows)
    left_out = head.leave_one_out()
    by_id = {row.id: row for row in rows}
    for i, id in enumerate(left_out.ids[:10]):
        rest = filled([row for row in rows if row.id != id])
        rest._pool = head._fitted()
        found = asked(rest, [by_id[id]])[0]
        expected = dict(zip(left_out.labels, left_out.probabilities[i], strict=True))
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [30, 300])
def test_fitted_it_is_right_and_says_how_often(n: int) -> None:
    head = filled(documents(n))
    head.fit()
    assert set(head.weights) == set(PARTS)
    fresh = documents(600, seed=7)
    answers = asked(head, fresh)
    right = [max(a, key=a.__getitem__) == row.label for a, row in zip(answers, fresh, strict=True)]
    assert calibration_error([max(a.values()) for a in answers], right, bins=10) < 0.15
    assert abs(head.leave_one_out().accuracy - np.mean(right)) < 0.15


def test_given_neighbours_take_the_place_of_own() -> None:
    rows = documents(30)
    head = filled(rows)
    labels, p = head.predict("", rows[0].vector, [("tools", 0.9)] * 10)
    _, q = head.predict("", rows[0].vector, [("birds", 0.9), ("unknown", 1.0)])
    assert p[labels.index("tools")] > q[labels.index("tools")]


def test_vectors_of_unreadable_texts_say_nothing() -> None:
    rows = documents(30)
    head = filled(rows)
    p = [head.predict("apple", row.vector, readable=False)[1] for row in rows[:2]]
    np.testing.assert_allclose(p[0], p[1])


def test_the_pool_finds_the_part_that_knows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    parts = rng.normal(size=(len(PARTS), 900, 3))
    parts[2] += 2.0 * np.eye(3)[truth]
    prior = np.ones(len(PARTS))
    pool = Pool.fit(parts, truth, prior)
    assert pool.weights.argmax() == 2
    assert pool.weights.min() > 0
    before = log_loss(softmax(np.tensordot(prior, parts, axes=1)), truth)
    assert log_loss(pool.probabilities(parts), truth) < before


def test_few_rows_lean_on_the_vectors() -> None:
    few, many = (prior_weights(n, 2, readable=True) for n in (4, 4000))
    assert few[2] / few[0] < many[2] / many[0]
    unreadable = prior_weights(4, 2, readable=False)
    assert min(unreadable[2:4]) > 10 * few[3]


def test_the_counts_see_what_the_documentation_says() -> None:
    assert len(words("a b").digests) == 3
    assert len(characters("a b").digests) == 6
