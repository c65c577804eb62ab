from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.instant.grams import MOST_CHARS, Grams, characters, words

ANY = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_total_over_any_text(text: str) -> None:
    for grams in (words(text), characters(text)):
        assert len(grams.digests) == len(grams.weights)
        assert np.all(np.diff(grams.digests.astype(object)) > 0)
        assert not len(grams.digests) or np.isclose((grams.weights**2).sum(), 1.0)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\ud800", "\U0001f600\U0001f600", "\x00"])
def test_edges(text: str) -> None:
    assert len(words(text).digests) <= 3
    assert len(characters(text).digests) <= 8


def test_words_and_pairs() -> None:
    assert len(words("red green blue").digests) == 3 + 2
    assert len(words("red red").digests) == 1 + 1
    assert same(words("Red,  Green"), words("red , green"))
    assert not same(words("red green"), words("green red"))


def test_characters_stay_within_words() -> None:
    # " ab ": " a", "ab", "b ", " ab", "ab ", " ab "; the order of words does not show.
    assert len(characters("ab").digests) == 6
    assert same(characters("ab cd"), characters("cd   ab"))


def test_cjk_is_read_by_character() -> None:
    assert len(words("\u4e00\u4e8c\u4e09").digests) == 3 + 2
    assert len(characters("\u4e00\u4e8c\u4e09\u56db").digests) == 4 + 3 + 2


def test_counts_are_sublinear() -> None:
    grams = words("a a a b")
    ratio = grams.weights.max() / grams.weights.min()
    assert ratio == pytest.approx(1 + np.log(3))


def test_a_long_text_is_cut() -> None:
    assert same(characters("ab" * MOST_CHARS), characters("ab" * (MOST_CHARS // 2)))


def test_digests_are_the_same_in_every_process() -> None:
    code = (
        "from benchmarks.instant.grams import characters, words;"
        "print(*words('Red green').digests, *characters('Red').digests)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [*words("Red green").digests, *characters("Red").digests]
    assert run.stdout.split() == [str(d) for d in here]
    assert words("red").digests.tolist() == [8543713955582083432]


def same(one: Grams, other: Grams) -> bool:
    return np.array_equal(one.digests, other.digests) and np.allclose(one.weights, other.weights)
