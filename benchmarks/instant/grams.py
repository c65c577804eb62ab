"""A text's n-grams as 64-bit digests with sublinear weights: the same in every process.

Words: 1- and 2-grams of words, marks and single CJK characters. Characters: 2- to 5-grams within a
word (a space stands for each of its ends), 1- to 3-grams where one has a CJK character, which is a
word of its own. An n-gram's digest is a polynomial over its code points modulo 2^64, read off
prefix sums (Karp and Rabin 1987, "Efficient randomized pattern-matching algorithms") and mixed
(Steele et al. 2014, SplitMix64). Weights are 1 + ln(count), of unit length.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_CHARS = 2_000
"""A text is read no further: a bound on the work and on the terms of one document."""
LONGEST, LONGEST_CJK = 5, 3

SPACE, WORD, MARK, CJK = 0, 1, 2, 3
BLANK = 32
BASE = np.uint64(0x9E3779B97F4A7C15)
_CJK = ((0x2E80, 0x312F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))

Codes = NDArray[np.uint32]
Digests = NDArray[np.uint64]


class Grams(NamedTuple):
    """One text's terms: digests [m] ascending, weights [m] of unit length."""

    digests: Digests
    weights: NDArray[np.float64]


def words(text: str) -> Grams:
    """Word 1- and 2-grams; empty for a text without words and marks."""
    codes, kinds = _read(text)
    return _weigh(_word_digests(codes, kinds))


def characters(text: str) -> Grams:
    """Character n-grams within words."""
    codes, kinds = _read(text)
    return _weigh(_character_digests(codes, kinds))


def _read(text: str) -> tuple[Codes, NDArray[np.uint8]]:
    """Code points [n] in lower case, and the kind of each; total over any `str`."""
    raw = text[:MOST_CHARS].lower().encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(raw, dtype="<u4").astype(np.uint32)
    table = _kinds()
    kinds = np.full(len(codes), MARK, dtype=np.uint8)
    low = codes < len(table)
    kinds[low] = table[codes[low]]
    kinds[(codes >= 0x20000) & (codes < 0x40000)] = CJK
    return codes, kinds


@cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of each code point of the basic plane; marks of a letter belong to its word."""
    table = np.full(0x10000, MARK, dtype=np.uint8)
    for code in range(len(table)):
        kind = unicodedata.category(chr(code))
        if kind[0] in "LNM" or chr(code) == "_":
            table[code] = WORD
        elif kind[0] in "ZC" and kind not in ("Cs", "Co"):
            table[code] = SPACE
    for first, last in _CJK:
        block = table[first : last + 1]
        block[block == WORD] = CJK
    return table


def _weigh(digests: Digests) -> Grams:
    found, times = _count(digests)
    weights = 1.0 + np.log(times)
    return Grams(found, weights / np.sqrt((weights**2).sum()) if len(found) else weights)


@njit(cache=True, nogil=True)
def _count(digests: Digests) -> tuple[Digests, NDArray[np.float64]]:
    """Distinct digests, ascending, and how often each stands there."""
    order = np.sort(digests)
    times = np.zeros(len(order))
    size = 0
    for i in range(len(order)):
        if size == 0 or order[i] != order[size - 1]:
            order[size] = order[i]
            size += 1
        times[size - 1] += 1.0
    return order[:size].copy(), times[:size].copy()


@njit(cache=True, nogil=True, inline="always")
def _mix(x: np.uint64) -> np.uint64:
    """SplitMix64's finaliser, never 0: that marks a free place in a table."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return x | np.uint64(x == np.uint64(0))


@njit(cache=True, nogil=True)
def _word_digests(codes: Codes, kinds: NDArray[np.uint8]) -> Digests:
    out = np.empty(2 * len(codes), dtype=np.uint64)
    size, start = 0, 0
    before = np.uint64(0)
    while start < len(codes):
        kind = kinds[start]
        end = start + 1
        if kind == SPACE:
            start = end
            continue
        while kind == WORD and end < len(codes) and kinds[end] == WORD:
            end += 1
        sum_ = np.uint64(0)
        for i in range(start, end):
            sum_ = sum_ * BASE + _mix(np.uint64(codes[i]) + np.uint64(1))
        word = _mix(sum_)
        out[size] = word
        size += 1
        if before:
            out[size] = _mix(before * BASE + word)
            size += 1
        before, start = word, end
    return out[:size]


@njit(cache=True, nogil=True)
def _character_digests(codes: Codes, kinds: NDArray[np.uint8]) -> Digests:
    """Over one line: words with one space between, before and behind."""
    line = np.empty(len(codes) + 2, dtype=np.uint64)
    kind = np.empty(len(codes) + 2, dtype=np.uint8)
    line[0], kind[0] = BLANK, SPACE
    n = 1
    for i in range(len(codes) + 1):
        space = i == len(codes) or kinds[i] == SPACE
        if space and kind[n - 1] == SPACE:
            continue
        line[n] = np.uint64(BLANK) if space else np.uint64(codes[i])
        kind[n] = SPACE if space else kinds[i]
        n += 1
    prefix = np.zeros(n + 1, dtype=np.uint64)
    powers = np.ones(LONGEST + 1, dtype=np.uint64)
    for i in range(n):
        prefix[i + 1] = prefix[i] * BASE + _mix(line[i] + np.uint64(1))
    for i in range(LONGEST):
        powers[i + 1] = powers[i] * BASE
    out = np.empty(LONGEST * n, dtype=np.uint64)
    size = 0
    for i in range(n):
        spaces, chinese = 0, False
        for length in range(1, min(LONGEST, n - i) + 1):
            last = kind[i + length - 1]
            spaces += last == SPACE
            chinese = chinese or last == CJK
            inner = spaces - (kind[i] == SPACE) - (last == SPACE and length > 1)
            if inner > 0 or (chinese and (spaces > 0 or length > LONGEST_CJK)):
                break
            if chinese or (length > 1 and spaces < length):
                out[size] = _mix(prefix[i + length] - prefix[i] * powers[length])
                size += 1
    return out[:size]
