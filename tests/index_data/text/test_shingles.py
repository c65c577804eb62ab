"""Shingles by the million are the law of `near_duplicate`, and no other."""

from __future__ import annotations

import random

import pytest

from benchmarks.language_model.text import contained
from index_data.text.similarity import Shingler, alike, near_duplicate

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "two",
    "dogs",
    "ran",
    "round",
    "it",
    "and",
    "one",
    "of",
    "them",
    "barked",
]


def test_alike_is_near_duplicate() -> None:
    rng = random.Random(0)
    shingler = Shingler()
    seen = {True: 0, False: 0}
    for _ in range(400):
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 60))]
        other = list(words)
        for _ in range(rng.randint(0, 4)):
            other[rng.randrange(len(other))] = rng.choice(WORDS)
        a, b = " ".join(words), " ".join(other).upper() + "!"
        expected = near_duplicate(a, b)
        seen[expected] += 1
        assert alike(shingler.grams(a), shingler.grams(b)) == expected, (a, b)
    assert min(seen.values()) > 50


def test_contained_is_the_share_of_grams() -> None:
    shingler = Shingler()
    part, whole = shingler.grams("a b c d"), shingler.grams("x a b c y")
    assert contained(part, whole) == pytest.approx(0.5)
    assert contained(shingler.grams("..."), whole) == 0.0
    assert not alike(shingler.grams(""), shingler.grams("?"))
