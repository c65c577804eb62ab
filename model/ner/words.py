"""Words of a text with their places, and what an uncased vocabulary loses of them.

A word is a run of letters (with their combining marks), a run of digits, or one other character;
Chinese characters and kana are words of their own. Places are in code points of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

SHAPES: Final = (
    "lower", "Title", "UPPER", "U", "miXed", "caseless", "ideograph", "digits", "number", "mark",
)  # fmt: skip
"""What a word looks like; index 0 of an embedding is no word at all, so these begin at 1."""
CHARS: Final = 20
"""Characters of a word that are looked at: its first and its last ten."""
BUCKETS: Final = 256
"""Character ids: ASCII as it is, everything else by its code point modulo 128; 0 is padding."""
_SINGLE: Final = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_PLANES: Final = (0x20000, 0x3FFFF)


class Word(NamedTuple):
    """A word and where it stands."""

    text: str
    start: int
    end: int


def split_words(text: str) -> list[Word]:
    """The words of a text; total over any string."""
    words: list[Word] = []
    start, kind = 0, ""
    for i, char in enumerate(text):
        here = _kind(char)
        if here == "M" and kind in ("L", "I", "S"):
            continue  # a combining mark belongs to what it stands on
        if here != kind or here in ("I", "S"):
            if kind:
                words.append(Word(text[start:i], start, i))
            start, kind = i, "" if here == "Z" else "S" if here == "M" else here
    if kind:
        words.append(Word(text[start:], start, len(text)))
    return words


def _kind(char: str) -> str:
    """L letter, N digit, I ideograph, M combining mark, S any other sign, Z space or control."""
    if char.isascii():
        return "L" if char.isalpha() else "N" if char.isdigit() else "S" if char >= "!" else "Z"
    category = unicodedata.category(char)
    if category[0] == "L":
        code = ord(char)
        single = any(a <= code <= b for a, b in (*_SINGLE, _PLANES))
        return "I" if single else "L"
    return {"N": "N", "M": "M", "Z": "Z", "C": "Z"}.get(category[0], "S")


def shape_of(word: str) -> int:
    """1 to 10: the word's place in `SHAPES`, from 1."""
    first = _kind(word[0])
    if first == "N":
        name = "digits" if word.isascii() else "number"
    elif first == "I":
        name = "ideograph"
    elif first != "L":
        name = "mark"
    elif word.islower():
        name = "lower"
    elif word.isupper():
        name = "UPPER" if len(word) > 1 else "U"
    elif word[0].isupper() and word[1:].islower():
        name = "Title"
    else:
        name = "miXed" if word.lower() != word.upper() else "caseless"
    return SHAPES.index(name) + 1


def chars_of(word: str) -> list[int]:
    """Character ids of a word, cut in the middle to `CHARS`, padded with 0."""
    if len(word) > CHARS:
        word = word[: CHARS // 2] + word[-CHARS // 2 :]
    ids = [max(1, ord(c)) if c.isascii() else 128 + ord(c) % 128 for c in word]
    return ids + [0] * (CHARS - len(ids))


def align(words: Sequence[Word], offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """For each word its first token (-1: none), and for each token the word that it begins in."""
    first = [-1] * len(words)
    owner = [-1] * len(offsets)
    w = 0
    for t, (start, end) in enumerate(offsets):
        while w < len(words) and words[w].end <= start:
            w += 1
        if w == len(words):
            break
        if words[w].start < end:
            owner[t] = w
            for inside in range(w, len(words)):
                if words[inside].start >= end:
                    break
                if first[inside] < 0:
                    first[inside] = t
    return first, owner
