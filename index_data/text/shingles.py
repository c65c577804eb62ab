"""Word 3-grams of many texts as sorted numbers: near-duplicates by the million.

The same law as `similarity.near_duplicate` for text with spaces (Broder 1997: resemblance of
shingles), on arrays instead of sets of strings: equal after normalising, or Jaccard of 0.8.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from index_data.text.similarity import ALIKE, normalise

Grams = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


class Shingler:
    """Numbers words as they come, so that equal grams of all its texts have equal numbers.

    Two different grams share a number once in 2^64: not in practice.
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
