"""NFKC with a way back: where in the original text each piece of the normalised text came from.

Text is cut before every character that cannot combine with what stands before it; normalising
the pieces is then the same as normalising the whole (Unicode Standard Annex 15, "stable code
points"), and each piece knows its place.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass

# Letters that join the one before them although they are no marks: Hangul vowels and finals, and
# the compatibility letters that become them; the half-width voicing marks of Katakana.
_JOINING = re.compile(r"[\u1160-\u11ff\u3131-\u318e\ud7b0-\ud7ff\uff9e\uff9f\uffa0-\uffdc]")


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
    """The text in NFKC, and its way back. Total: lone surrogates stay what they are."""
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
