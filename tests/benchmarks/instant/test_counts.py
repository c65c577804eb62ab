from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.instant import table
from benchmarks.instant.counts import ALPHA, NEVER, Counts
from benchmarks.instant.grams import Grams, words

TEXTS = st.lists(
    st.tuples(st.text("abcd ", max_size=12), st.integers(0, 3)), min_size=1, max_size=12
)
Documents = list[tuple[str, int]]


def counted(documents: Documents) -> Counts:
    counts = Counts()
    counts.grow(4)
    for text, label in documents:
        counts.add(words(text), label)
    return counts


def plainly(documents: Documents, query: Grams, labels: int = 4) -> NDArray[np.float64]:
    """The formula of the docstring over dense arrays."""
    grams = [(words(text), label) for text, label in documents]
    terms = sorted({int(d) for g, _ in grams for d in g.digests})
    place = {term: i for i, term in enumerate(terms)}
    own = np.zeros((labels, len(terms)))
    for g, label in grams:
        own[label, [place[int(d)] for d in g.digests]] += g.weights
    other = own.sum(0) - own
    w = np.log(own + ALPHA) - np.log(other + ALPHA)
    w -= np.log(own.sum(1) + ALPHA * len(terms) + 1e-12)[:, None]
    w += np.log(other.sum(1) + ALPHA * len(terms) + 1e-12)[:, None]
    x = np.zeros(len(terms))
    for digest, weight in zip(query.digests, query.weights, strict=True):
        if int(digest) in place:
            x[place[int(digest)]] = weight
    x /= max(float(np.linalg.norm(x)), 1e-9)
    scores: NDArray[np.float64] = (w @ x) / np.sqrt(np.maximum((w**2).sum(1), 1e-9))
    scores[[label not in {y for _, y in documents} for label in range(labels)]] = NEVER
    return scores


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.text("abcde ", max_size=12))
def test_scores_follow_the_formula(documents: Documents, query: str) -> None:
    found = counted(documents).scores(words(query))
    np.testing.assert_allclose(found, plainly(documents, words(query)), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_adding_and_removing_is_exact(documents: Documents, more: Documents) -> None:
    counts = counted(documents)
    before = [counts.scores(words(text)) for text, _ in documents]
    for text, label in more:
        counts.add(words(text), label)
    for text, label in reversed(more):
        counts.remove(words(text), label)
    for (text, _), scores in zip(documents, before, strict=True):
        np.testing.assert_allclose(counts.scores(words(text)), scores, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_leaving_one_out_is_removing_it(documents: Documents) -> None:
    counts = counted(documents)
    for text, label in documents:
        left_out = counts.leave_one_out(words(text), label)
        counts.remove(words(text), label)
        np.testing.assert_allclose(left_out, counts.scores(words(text)), atol=1e-9)
        counts.add(words(text), label)


def test_many_at_once_is_one_by_one() -> None:
    documents = [(f"w{i % 7} w{i % 5} w{i}", i % 4) for i in range(300)]
    bulk = Counts()
    for text, label in documents:
        bulk.add(words(text), label, recount=True)
    bulk.recount()
    one_by_one = counted(documents)
    for text, _ in documents[:20]:
        np.testing.assert_allclose(
            bulk.scores(words(text)), one_by_one.scores(words(text)), atol=1e-9
        )


def test_terms_of_nobody_are_forgotten() -> None:
    counts = counted([("red", 0), ("green", 1)])
    for i in range(2_000):
        counts.add(words(f"name{i}"), 2)
        counts.remove(words(f"name{i}"), 2)
    assert counts._table.terms == counts._table.pairs == 2
    assert len(counts._table.keys) <= 8_192


def test_pairs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MOST_PAIRS", 300)
    documents = [(f"w{i} v{i % 10}", i % 3) for i in range(400)]
    counts = counted(documents)
    assert counts._table.bits > 0
    assert counts._table.pairs <= 300
    for text, label in documents:
        counts.remove(words(text), label)
    assert counts._table.pairs == 0
    assert not counts._totals.any()
