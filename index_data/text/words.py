"""Words of English and Chinese: stop words, stems, segmentation.

English stems are Snowball's "Porter 2" (Porter, 2001, http://snowball.tartarus.org) by PyStemmer,
the stop words Lucene's list of 33: short, so that "who", "after" or "more" still count.

Chinese is segmented by rjieba (jieba's dictionary in Rust) without its hidden Markov model: an
unknown word falls into single characters, on which a question and its passage agree, where the
model joins them differently in different sentences (recall@1 over CMRC 2018's questions: 97.1
against 96.2).
"""

from __future__ import annotations

import threading

import rjieba
import Stemmer

_ENGLISH = """
a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with
"""
_CHINESE = """
的 了 着 过 和 與 与 及 或 而 且 但 但是 也 都 就 又 还 還 很 是 在 有 于 於 由 从 從 对 對 把 被
给 給 为 為 以 以及 之 其 其中 这 這 那 这个 這個 那个 那個 这些 這些 那些 这样 這樣 那样 那樣 我
你 您 他 她 它 我们 我們 你们 你們 他们 他們 她们 她們 它们 它們 一个 一個 一些 吗 嗎 呢 吧 啊 呀
哦 嘛 地 得 所 等 并 並 并且 並且 因为 因為 所以 如果 虽然 雖然 而且 或者
"""
ENGLISH_STOP_WORDS = frozenset(_ENGLISH.split())
CHINESE_STOP_WORDS = frozenset(_CHINESE.split())  # simplified and traditional
MAX_TERM_CHARS = 64
_MAX_REMEMBERED = 200_000


class Stems(dict[str, str]):
    """Lower-case word to its term; the empty string for a stop word. Not for several threads.

    Text repeats its words, so nearly every look-up is one of a dictionary.
    """

    def __init__(self, *, stemmed: bool, stop_words: bool) -> None:
        super().__init__()
        self._stem = Stemmer.Stemmer("english", 0).stemWord if stemmed else str
        self._stop_words = ENGLISH_STOP_WORDS if stop_words else frozenset[str]()

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
    """This thread's terms of English words; `stop_words`: they are dropped."""
    known = _per_thread.stems
    key = stemmed, stop_words
    if key not in known:
        known[key] = Stems(stemmed=stemmed, stop_words=stop_words)
    return known[key]


def segment(run: str) -> list[str]:
    """The words of a run of Han characters; joined they are the run."""
    words: list[str] = rjieba.cut(run, False)
    return words
