"""Passages: pieces of a long document, short enough for a query to match and a model to read."""

from __future__ import annotations

import re

# A sentence ends at its mark (with quotes and brackets that close behind it) or at a line's end.
_END = re.compile(r"[.!?][\"')\]”’]*(?=\s)|[。！？；…]+[”’」』）\"')]*|\n+")
# A unit of length: a word, or two Han or Kana characters (which read about as long as one word).
_UNIT = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]{1,2}|"
    r"[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]{1,100}"
)

Span = tuple[int, int]


def passages(text: str, *, words: int) -> list[Span]:
    """(start, end) of passages of at most ``words`` words, on sentence borders where it can be.

    Each passage begins with the last sentence of the one before it, as long as that leaves room
    for a new one. Two Chinese characters count as a word. ``words=0`` never splits. Together the
    passages hold every character that is not white space.
    """
    units = [match.span() for match in _UNIT.finditer(text)] if words > 0 else []
    if len(units) <= words:
        return [(0, len(text))]
    sentences = _sentences(text, units, words)
    spans: list[Span] = []
    first = 0
    while first < len(sentences):
        last, length = first, 0
        while last < len(sentences) and length + sentences[last][2] <= words:
            length += sentences[last][2]
            last += 1
        spans.append((sentences[first][0], sentences[last - 1][1]))
        if last == len(sentences):
            break
        fits = last - 1 > first and sentences[last - 1][2] + sentences[last][2] <= words
        first = last - 1 if fits else last
    return spans


def sentences(text: str) -> list[Span]:
    """(start, end) of each sentence, without the white space around it; lines end sentences."""
    spans: list[Span] = []
    begin = 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        part = text[begin:end]
        if part.strip():
            first = begin + len(part) - len(part.lstrip())
            spans.append((first, begin + len(part.rstrip())))
        begin = end
    return spans


def _sentences(text: str, units: list[Span], words: int) -> list[tuple[int, int, int]]:
    """(start, end, units) of each sentence; one longer than ``words`` is cut between units."""
    borders = [match.end() for match in _END.finditer(text)]
    sentences: list[tuple[int, int, int]] = []
    begin, border = 0, 0
    for position, (_, end) in enumerate(units):
        while border < len(borders) and borders[border] < end:
            border += 1
        following = units[position + 1][0] if position + 1 < len(units) else len(text) + 1
        ends_here = border < len(borders) and borders[border] <= following
        if ends_here or position + 1 == len(units) or position + 1 - begin == words:
            sentences.append((units[begin][0], end, position + 1 - begin))
            begin = position + 1
    return sentences
