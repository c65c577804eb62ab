"""When two texts are the same, or nearly: such a text may not be evidence for the other."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.8
"""The Jaccard similarity of 3-grams from which on two texts are near-duplicates."""

_WORD = re.compile(r"\w+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")

Grams = NDArray[np.uint64]
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def normalise(text: str) -> str:
    """NFKC, case folded, white space collapsed: texts equal after it count as the same."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    else:
        text = text.lower()
    return " ".join(text.split())


def near_duplicate(a: str, b: str) -> bool:
    """Equal after :func:`normalise`, or Jaccard similarity of 3-grams of at least `ALIKE`.

    The grams are of words; of characters in Chinese, which has no spaces between words.
    """
    a, b = normalise(a), normalise(b)
    if a == b:
        return True
    grams_a, grams_b = _grams(a), _grams(b)
    if not grams_a or not grams_b:
        return False
    small, large = sorted((grams_a, grams_b), key=len)
    if len(small) < ALIKE * len(large):  # then not even full containment reaches it
        return False
    shared = len(small & large)
    return shared >= ALIKE * (len(small) + len(large) - shared)


class Known:
    """Texts by their grams, so that a near-duplicate is looked for among few of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [normalise(text) for text in texts]
        self._same = frozenset(self._texts)
        self._holders: dict[str, list[int]] = {}
        for number, text in enumerate(self._texts):
            for gram in _make_grams(text):
                self._holders.setdefault(gram, []).append(number)

    def near(self, text: str) -> bool:
        """Whether one of them is :func:`near_duplicate` to this text."""
        if normalise(text) in self._same:
            return True
        grams = _grams(normalise(text))
        shared = Counter(n for gram in grams for n in self._holders.get(gram, ()))
        # Of two sets of grams that are so much alike, each has at least that share in both.
        likely = (n for n, count in shared.items() if count >= ALIKE * len(grams))
        return any(near_duplicate(text, self._texts[n]) for n in likely)


def _grams(text: str) -> frozenset[str]:
    # Training compares one row with many hits: short texts are worth remembering, long are not.
    return _short_grams(text) if len(text) <= 4_096 else _make_grams(text)


@lru_cache(maxsize=2_048)
def _short_grams(text: str) -> frozenset[str]:
    return _make_grams(text)


def _make_grams(text: str) -> frozenset[str]:
    words = _WORD.findall(text)
    if len(_HAN.findall(text)) * 2 > sum(map(len, words)):
        characters = "".join(words)
        return frozenset(characters[i : i + 3] for i in range(max(1, len(characters) - 2)))
    return frozenset(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)) if words)


class Shingler:
    """Word 3-grams of many texts as sorted numbers (Broder 1997): near-duplicates by the million.

    Words are numbered as they come, so that equal grams of all its texts have equal numbers; two
    different grams share one once in 2^64.
    """

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def grams(self, text: str) -> Grams:
        """The distinct 3-grams of a text, ascending; of one or two words, that one gram."""
        words = self._words
        ids = np.array(
            [words.setdefault(w, len(words) + 1) for w in _WORD.findall(normalise(text))],
            dtype=np.uint64,
        )
        if not len(ids):
            return ids
        if len(ids) < 3:
            ids = np.concatenate([ids, np.zeros(3 - len(ids), dtype=np.uint64)])
        mixed = np.zeros(len(ids) - 2, dtype=np.uint64)
        for place, factor in enumerate(_FACTORS):
            # Each word is scattered over all bits before the sum: neighbours do not cancel out.
            part = ids[place : place + len(mixed)] * factor
            mixed = (mixed ^ (part ^ (part >> np.uint64(29)))) * _FACTORS[0]
            mixed ^= mixed >> np.uint64(32)
        return np.unique(mixed)


def alike(a: Grams, b: Grams) -> bool:
    """Whether two texts' grams have a Jaccard similarity of at least 0.8; of none, never."""
    small, large = sorted((len(a), len(b)))
    if not small or small < ALIKE * large:  # then not even full containment reaches it
        return False
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared >= ALIKE * (small + large - shared)
