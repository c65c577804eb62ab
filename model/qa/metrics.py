"""Exact match and F1 of answers after SQuAD's definition (Rajpurkar et al. 2016).

English answers are compared as SQuAD's own script does: lower case, without ASCII punctuation and
articles, as bags of words. In other languages the words are those between white space and
punctuation of any script, and each Han or Kana character counts as one, as is usual for DRCD.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHARACTER = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f])")


def answer_words(text: str, lang: str = "en") -> list[str]:
    """What counts of an answer: its words, or characters, in order."""
    if lang == "en":
        plain = text.lower().translate(_ASCII_PUNCTUATION)
        return _ARTICLES.sub(" ", plain).split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in folded)
    return _CHARACTER.sub(r" \1 ", plain).split()


def exact_match(answer: str, truths: Iterable[str], lang: str = "en") -> float:
    """1 if the answer equals any of the true ones, else 0."""
    words = answer_words(answer, lang)
    return float(any(words == answer_words(truth, lang) for truth in truths))


def f1(answer: str, truths: Iterable[str], lang: str = "en") -> float:
    """The best F1 of shared words with any of the true answers, 0 to 1."""
    return max(
        (_f1(answer_words(answer, lang), answer_words(t, lang)) for t in truths), default=0.0
    )


def _f1(answer: Sequence[str], truth: Sequence[str]) -> float:
    if not answer or not truth:
        return float(answer == truth)
    shared = (Counter(answer) & Counter(truth)).total()
    return 2 * shared / (len(answer) + len(truth))
