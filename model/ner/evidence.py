"""What retrieved labelled sentences say of a text's words: how they tag the same words.

For every word, the hits' occurrences of it (equal after case folding) are counted by tag. An
occurrence counts for more in a better hit, in the same case, and beside the same words. A head
reads the shares as features; an answer cites the sentences that the counts came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.ner.words import Word, split_words

Entities = tuple[tuple[int, int, str], ...]
"""(start, end, type) of each, in code points; in order, without overlap."""
OTHER_CASE = 0.5
"""What an occurrence in another case counts, beside one in the same."""


@dataclass(frozen=True, slots=True)
class TagHit:
    """A retrieved sentence with its entities; `score`: the retriever's."""

    text: str
    entities: Entities
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence in words; a tag is None outside, else (type, whether it begins an entity)."""

    words: tuple[Word, ...]
    keys: tuple[str, ...]
    tags: tuple[tuple[str, bool] | None, ...]


@lru_cache(maxsize=32_768)
def tagged(text: str, entities: Entities) -> Tagged:
    """The words of a labelled sentence; a word that an entity touches is of it."""
    words = tuple(split_words(text))
    tags: list[tuple[str, bool] | None] = [None] * len(words)
    for start, end, kind in entities:
        inside = [i for i, word in enumerate(words) if word.start < end and word.end > start]
        for i in inside:
            tags[i] = (kind, i == inside[0])
    return Tagged(words, tuple(word.text.casefold() for word in words), tuple(tags))


@dataclass(frozen=True, slots=True)
class Seen:
    """One occurrence of a word of the text in a hit."""

    hit: int
    weight: float
    tag: tuple[str, bool] | None


def occurrences(words: Sequence[Word], hits: Sequence[TagHit]) -> list[list[Seen]]:
    """For each word, where the hits have it."""
    keys = [word.text.casefold() for word in words]
    places: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    seen: list[list[Seen]] = [[] for _ in words]
    best = max((hit.score for hit in hits), default=0.0)
    for number, hit in enumerate(hits):
        there = tagged(hit.text, hit.entities)
        share = max(hit.score / best, 0.05) if best > 0 else 1.0
        for j, key in enumerate(there.keys):
            for i in places.get(key, ()):
                beside = _same(keys, i - 1, there.keys, j - 1) + _same(
                    keys, i + 1, there.keys, j + 1
                )
                case = 1.0 if words[i].text == there.words[j].text else OTHER_CASE
                seen[i].append(Seen(number, share * case * (1 + beside), there.tags[j]))
    return seen


def _same(left: Sequence[str], i: int, right: Sequence[str], j: int) -> bool:
    return 0 <= i < len(left) and 0 <= j < len(right) and left[i] == right[j]


def features(seen: Sequence[Sequence[Seen]], types: Sequence[str]) -> NDArray[np.float32]:
    """Shares by tag (O, B and I of each type, any other type) and log(1 + weight): [w, 2T + 3]."""
    column = {kind: 2 * i + 1 for i, kind in enumerate(types)}
    other = 2 * len(types) + 1
    out = np.zeros((len(seen), other + 2), dtype=np.float32)
    for row, seen_here in zip(out, seen, strict=True):
        for one in seen_here:
            if one.tag is None:
                row[0] += one.weight
            elif one.tag[0] in column:
                row[column[one.tag[0]] + (not one.tag[1])] += one.weight
            else:
                row[other] += one.weight
        total = float(row.sum())
        if total > 0:
            row /= total
            row[-1] = np.log1p(total)
    return out
