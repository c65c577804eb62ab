"""When two texts are the same, or nearly: what may not be evidence for itself."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_WORD = re.compile(r"\w+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def normalise(text: str) -> str:
    """NFKC, case folded, white space collapsed: texts equal after it count as the same."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    else:
        text = text.lower()
    return " ".join(text.split())


def near_duplicate(a: str, b: str) -> bool:
    """Equal after :func:`normalise`, or Jaccard similarity of 3-grams of at least 0.8.

    The grams are of words; of characters in Chinese, which has no spaces to tell words by.
    """
    a, b = normalise(a), normalise(b)
    if a == b:
        return True
    grams_a, grams_b = _grams(a), _grams(b)
    if not grams_a or not grams_b:
        return False
    small, large = sorted((grams_a, grams_b), key=len)
    if len(small) < 0.8 * len(large):  # then not even full containment reaches 0.8
        return False
    shared = len(small & large)
    return shared >= 0.8 * (len(small) + len(large) - shared)


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
