"""English: stop words and stems, remembered word by word.

The stems are Snowball's "Porter 2" (Porter, 2001, http://snowball.tartarus.org) through PyStemmer,
the stop words Lucene's list of 33: short, so that "who", "after" or "more" still count.
"""

from __future__ import annotations

import threading

import Stemmer

_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with
"""
STOP_WORDS = frozenset(_WORDS.split())
MAX_TERM_CHARS = 64
_MAX_REMEMBERED = 200_000


class Stems(dict[str, str]):
    """Lower-case word to its term; the empty string for a stop word. Not for several threads.

    Text repeats its words, so nearly every look-up is one of a dictionary.
    """

    def __init__(self, *, stemmed: bool, stop_words: bool) -> None:
        super().__init__()
        self._stem = Stemmer.Stemmer("english", 0).stemWord if stemmed else str
        self._stop_words = STOP_WORDS if stop_words else frozenset[str]()

    def __missing__(self, word: str) -> str:
        if len(word) > MAX_TERM_CHARS:
            return self[word[:MAX_TERM_CHARS]]
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        stem = "" if word.removesuffix("'s") in self._stop_words else self._stem(word)
        self[word] = stem
        return stem


class _PerThread(threading.local):
    # PyStemmer's stemmers are not safe to share between threads.
    def __init__(self) -> None:
        self.stems: dict[tuple[bool, bool], Stems] = {}


_per_thread = _PerThread()


def stems(*, stemmed: bool, stop_words: bool) -> Stems:
    """This thread's terms of words: stems or the words themselves, without stop words or with."""
    known = _per_thread.stems
    key = stemmed, stop_words
    if key not in known:
        known[key] = Stems(stemmed=stemmed, stop_words=stop_words)
    return known[key]
