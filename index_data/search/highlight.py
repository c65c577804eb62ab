"""Where the terms of a query stand in a hit's text, and the pieces of it that hold most of them."""

from __future__ import annotations

from dataclasses import dataclass

from index_data.text import analysis
from index_data.text.analysis import STANDARD, Analyzer

FRAGMENT_CHARS = 160
FRAGMENTS = 3

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece `text[start:end]` of a text; `matches` are spans in the whole text, code points."""

    text: str
    start: int
    end: int
    matches: tuple[Span, ...]


def matches(
    text: str, query: str, lang: str | None = None, analyzer: Analyzer = STANDARD
) -> list[tuple[int, int, str]]:
    """(start, end, term) of every token of `text` that the query asks for, in order.

    `lang` is the document's; the query is analysed by its own script, as in a search.
    """
    wanted = set(analysis.query_terms(query, analyzer=analyzer))
    if not wanted:
        return []
    _, tokens = analysis.analyze(text, lang, analyzer)
    return [(t.start, t.end, t.stem) for t in tokens if not t.stop and t.stem in wanted]


def fragments(
    text: str,
    query: str,
    lang: str | None = None,
    *,
    count: int = FRAGMENTS,
    size: int = FRAGMENT_CHARS,
) -> list[Fragment]:
    """The best pieces of a text, in its order: most different terms first, then most matches.

    Pieces do not overlap and have about `size` code points; a match is never cut, words are not
    where it can be helped. A text without a match has none.
    """
    found = matches(text, query, lang)
    windows: list[tuple[int, int, int, int]] = []  # terms, matches, first match, behind the last
    last = 0
    for first in range(len(found)):
        last = max(last, first + 1)
        while last < len(found) and found[last][1] - found[first][0] <= size:
            last += 1
        terms = {term for _, _, term in found[first:last]}
        windows.append((len(terms), last - first, first, last))
    windows.sort(key=lambda window: (-window[0], -window[1], window[2]))
    chosen: list[Fragment] = []
    for _, _, first, last in windows:
        if len(chosen) == count:
            break
        spans = tuple((start, end) for start, end, _ in found[first:last])
        start, end = _widened(text, spans[0][0], spans[-1][1], size)
        if all(end <= other.start or start >= other.end for other in chosen):
            chosen.append(Fragment(text[start:end], start, end, spans))
    return sorted(chosen, key=lambda fragment: fragment.start)


def _widened(text: str, start: int, end: int, size: int) -> Span:
    """Room on both sides of the matches, up to `size`, cut at white space where there is some."""
    room = max(0, size - (end - start))
    low = max(0, start - room // 2)
    high = min(len(text), end + room - (start - low))
    low = max(0, min(low, high - size)) if high == len(text) else low
    while 0 < low < start and not text[low - 1].isspace():
        low += 1
    if low == start and start - room // 2 > 0:  # no white space at all, as in Chinese
        low = max(0, start - room // 2)
    cut = high
    while end < cut < len(text) and not text[cut].isspace():
        cut -= 1
    high = cut if cut > end else high
    return low, high
