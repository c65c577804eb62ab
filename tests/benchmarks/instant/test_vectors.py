from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.instant.discriminant import Discriminant
from benchmarks.instant.moments import Moments
from benchmarks.instant.neighbours import log_votes, nearest
from benchmarks.instant.ridge import Ridge

WIDTH, LABELS = 12, 4
Floats = NDArray[np.float64]


def drawn(n: int, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, LABELS, n)
    vectors = rng.normal(size=(n, WIDTH)) + rng.normal(size=(LABELS, WIDTH))[labels]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def solved(vectors: Floats, labels: NDArray[np.int64]) -> tuple[Moments, Ridge, Discriminant]:
    moments = Moments(WIDTH)
    moments.add_many(vectors, labels)
    return moments, Ridge(moments), Discriminant(moments)


def move(state: tuple[Moments, Ridge, Discriminant], vector: Floats, label: int, sign: int) -> None:
    moments, ridge, discriminant = state
    ridge.change(vector, sign)
    discriminant.change(vector, label, sign)
    moments.add(vector, label, sign)


def test_ridge_is_least_squares_with_a_penalty() -> None:
    vectors, labels = drawn(50)
    _, ridge, _ = solved(vectors, labels)
    x = np.hstack([vectors, np.ones((50, 1))])
    penalty = np.diag([1.0] * WIDTH + [0.0])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ np.eye(LABELS)[labels])
    np.testing.assert_allclose(ridge.scores(vectors)[:, :LABELS], x @ weights, atol=1e-9)


@pytest.mark.parametrize("part", [1, 2])
def test_adding_one_by_one_is_adding_all(part: int) -> None:
    vectors, labels = drawn(40)
    whole, state = solved(vectors, labels), solved(vectors[:0], labels[:0])
    for vector, label in zip(vectors, labels, strict=True):
        move(state, vector, int(label), 1)
    scores = [s[part].scores(vectors) for s in (whole, state)]  # type: ignore[union-attr]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-8)


@pytest.mark.parametrize("part", [1, 2])
def test_removing_undoes_adding(part: int) -> None:
    vectors, labels = drawn(40)
    state = solved(vectors, labels)
    before = state[part].scores(vectors)  # type: ignore[union-attr]
    more, of = drawn(30, seed=1)
    of[0] = 6  # a label that comes and goes
    for sign in (1, -1):
        for vector, label in zip(more, of, strict=True):
            move(state, vector, int(label), sign)
    after = state[part].scores(vectors)  # type: ignore[union-attr]
    np.testing.assert_allclose(after, before, atol=1e-9)


@pytest.mark.parametrize("part", [1, 2])
def test_leaving_one_out_is_removing_it(part: int) -> None:
    vectors, labels = drawn(30)
    labels[0] = 5  # the only document of its label
    state = solved(vectors, labels)
    left_out = state[part].leave_one_out(vectors, labels)  # type: ignore[union-attr]
    for i in range(len(labels)):
        moments, ridge, discriminant = solved(np.delete(vectors, i, 0), np.delete(labels, i))
        moments.grow(left_out.shape[1])
        again = (ridge if part == 1 else discriminant).scores(vectors[i : i + 1])[0]
        np.testing.assert_allclose(left_out[i], again, atol=1e-8)


def test_nearest_vote() -> None:
    vectors = np.eye(3, dtype=np.float32)
    at, _ = nearest(vectors, vectors, skip=np.arange(3))
    assert at.shape == (3, 2)
    assert all(i not in row for i, row in enumerate(at))
    votes = log_votes(np.array([[0, 1]]), np.array([[0.9, 0.5]]), 3)
    assert votes.argmax() == 0
    assert np.exp(votes).sum() == pytest.approx(1.0)
    none = nearest(vectors[:0], vectors)
    assert np.exp(log_votes(none[0], none[1], 2)) == pytest.approx(0.5)
