"""Analysis: from a text to the terms that are indexed and searched.

Unicode is normalised (NFKC), text is cut into words, English is lower-cased and stemmed, runs of
Han characters are segmented, and stop words are dropped; an :class:`Analyzer` may leave out the
last two. Each run is handled by its script, so mixed text needs no decision; ``lang`` decides
whether words in Latin and other letters are English. Total over any ``str``, and every offset
counts code points of the text as it was given.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from index_data.text import words
from index_data.text.words import MAX_TERM_CHARS

MAX_QUERY_CHARS = 20_000
MAX_QUERY_TERMS = 512

# Combining marks are not \w for Python's re, but they stand within words (é typed as two code
# points, the vowels of Arabic, Hindi and Thai, the joiners of Persian).
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1-\u05c2\u05c4-\u05c5\u05c7\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7-\u06e8\u06ea-\u06ed\u0900-\u0903"
    "\u093a-\u094f\u0951-\u0957\u0962-\u0963\u0981-\u0983\u09bc-\u09d7\u0a01-\u0a4d\u0a81-\u0acd"
    "\u0b01-\u0b57\u0b82-\u0bd7\u0c00-\u0c56\u0c81-\u0cd6\u0d00-\u0d57\u0d81-\u0ddf\u0e31"
    "\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ecd\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u200c-\u200d\u20d0-\u20ff\u302a-\u302f\u3099-\u309a\ufe20-\ufe2f"
)
_WORD = re.compile(rf"[\w{_MARKS}]+(?:['’][\w{_MARKS}]+)*")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
# Letters that join the one before them although they are no marks: Hangul vowels and finals, and
# the compatibility letters that become them; the half-width voicing marks of Katakana.
_JOINING = re.compile(r"[\u1160-\u11ff\u3131-\u318e\ud7b0-\ud7ff\uff9e\uff9f\uffa0-\uffdc]")
_HAN_RANGES = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_HAN = re.compile(rf"[{_HAN_RANGES}]")
_HAN_OR_NOT = re.compile(rf"([{_HAN_RANGES}]+)|[^{_HAN_RANGES}]+")


@dataclass(frozen=True, slots=True)
class Analyzer:
    """How words become terms. An index keeps the one it was built with, for queries too."""

    name: str
    stemmed: bool
    stop_words: bool  # they are dropped

    @property
    def version(self) -> str:
        """Goes into every manifest: raise it whenever :func:`terms` changes for any text."""
        stop = "lucene-33" if self.stop_words else "no-stop-words"
        stem = "snowball-english" if self.stemmed else "unstemmed"
        return f"1:nfkc,{stop},{stem},rjieba-no-hmm"

    def stems(self) -> words.Stems:
        """This thread's terms of English words."""
        return words.stems(stemmed=self.stemmed, stop_words=self.stop_words)

    def drops(self, word: str) -> bool:
        """Whether a word of Han characters is a stop word that is dropped."""
        return self.stop_words and word in words.CHINESE_STOP_WORDS


STANDARD = Analyzer("standard", stemmed=True, stop_words=True)
ANALYZERS = {
    one.name: one
    for one in (
        STANDARD,
        Analyzer("unstemmed", stemmed=False, stop_words=True),
        Analyzer("all-words", stemmed=False, stop_words=False),
    )
}


def analyzer_of(version: str) -> Analyzer | None:
    """The analyzer that a manifest names; None where this version lacks it."""
    return next((one for one in ANALYZERS.values() if one.version == version), None)


@dataclass(frozen=True, slots=True)
class Token:
    """``text`` is ``original[start:end]``; ``stem`` is the term, also shown for a stop word."""

    text: str
    start: int
    end: int
    stop: bool
    stem: str


def supported(lang: str | None) -> bool:
    """Whether there is an analyzer; other languages get words in lower case, without stemming."""
    return lang is None or lang.partition("-")[0].lower() in ("en", "zh")


def detect_language(text: str) -> str:
    """``zh`` where at least a fifth of the letters and digits are Han characters, else ``en``."""
    if text.isascii():
        return "en"
    sample = text[:4_000]
    letters = sum(map(str.isalnum, sample))
    return "zh" if letters and len(_HAN.findall(sample)) * 5 >= letters else "en"


def analyze(
    text: str, lang: str | None = None, analyzer: Analyzer = STANDARD
) -> tuple[str, list[Token]]:
    """The language used and every token, stop words included, in the order of the text."""
    language = lang or detect_language(text)
    stems = analyzer.stems() if supported(language) else None
    mapped = nfkc(text)
    tokens: list[Token] = []
    for word, start, han in _words(mapped.text):
        if han:
            stop, stem = analyzer.drops(word), word[:MAX_TERM_CHARS]
        elif stems is None:
            stop, stem = False, _key(word)
        else:
            key = _key(word)
            stop, stem = not stems[key], stems[key] or key
        first, last = mapped.original(start, start + len(word))
        tokens.append(Token(text[first:last], first, last, stop, stem))
    return language, tokens


def terms(text: str, lang: str | None = None, analyzer: Analyzer = STANDARD) -> list[str]:
    """The stems of :func:`analyze` that are not stop words, without offsets: the fast path."""
    if not supported(lang):
        return [token.stem for token in analyze(text, lang, analyzer)[1] if not token.stop]
    stems = analyzer.stems()
    stemmed: Iterable[str]
    if text.isascii():
        stemmed = map(stems.__getitem__, _ASCII_WORD.findall(text.lower()))
    else:
        stemmed = (
            ("" if analyzer.drops(word) else word[:MAX_TERM_CHARS]) if han else stems[_key(word)]
            for word, _, han in _words(unicodedata.normalize("NFKC", text))
        )
    return [stem for stem in stemmed if stem]


def query_terms(text: str, lang: str | None = None, analyzer: Analyzer = STANDARD) -> list[str]:
    """:func:`terms` of a query, of which only the beginning counts (512 terms at most)."""
    return terms(text[:MAX_QUERY_CHARS], lang, analyzer)[:MAX_QUERY_TERMS]


def matches(
    text: str, query: str, lang: str | None = None, analyzer: Analyzer = STANDARD
) -> list[tuple[int, int]]:
    """(start, end) of every token of ``text`` whose term is one of the query's, in order.

    ``lang`` is that of the text; the query is analysed by its own script, as in a search.
    """
    queried = set(query_terms(query, analyzer=analyzer))
    if not queried:
        return []
    _, tokens = analyze(text, lang, analyzer)
    return [(t.start, t.end) for t in tokens if not t.stop and t.stem in queried]


def _key(word: str) -> str:
    return word.lower()[:MAX_TERM_CHARS].replace("’", "'")


def _words(normalised: str) -> Iterator[tuple[str, int, bool]]:
    """(word, start, whether of Han characters) for each word of a text in NFKC."""
    # An underscore joins names in code; queries contain the words in them.
    for match in _WORD.finditer(normalised.replace("_", " ")):
        word = match[0]
        if word.isascii():
            yield word, match.start(), False
            continue
        for run in _HAN_OR_NOT.finditer(word):
            start = match.start() + run.start()
            if run[1]:
                for part in words.segment(run[0]):
                    yield part, start, True
                    start += len(part)
            elif part := run[0].strip("'’"):
                yield part, start + run[0].index(part), False


@dataclass(frozen=True, slots=True)
class TextMap:
    """Normalised text; ``pieces[i]`` of it began at ``origins[i]`` of a text of ``length``."""

    text: str
    pieces: list[int] | None
    origins: list[int]
    length: int

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The smallest span of the original text that ``text[start:end]`` came from."""
        if self.pieces is None:
            return start, end
        first = bisect_right(self.pieces, start) - 1
        last = bisect_right(self.pieces, end - 1)
        return self.origins[first], self.origins[last] if last < len(self.origins) else self.length


def nfkc(text: str) -> TextMap:
    """The text in NFKC, and its way back. Total: lone surrogates stay what they are.

    Text is cut before every character that cannot combine with what stands before it: normalising
    the pieces is then the same as normalising the whole (Unicode Standard Annex 15, "stable code
    points"), and each piece knows its place.
    """
    if text.isascii() or unicodedata.is_normalized("NFKC", text):
        return TextMap(text, None, [], len(text))
    parts: list[str] = []
    pieces: list[int] = []
    origins: list[int] = []
    written = 0
    begin = 0
    for position in range(1, len(text) + 1):
        if position < len(text) and _joins(text[position]):
            continue
        part = unicodedata.normalize("NFKC", text[begin:position])
        if part:
            parts.append(part)
            pieces.append(written)
            origins.append(begin)
            written += len(part)
        begin = position
    return TextMap("".join(parts), pieces, origins, len(text))


def _joins(character: str) -> bool:
    if character < "\u0300":
        return False
    return unicodedata.category(character)[0] == "M" or _JOINING.match(character) is not None
