"""The postings of a segment as flat arrays (CSC): per term, the passages with it and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75


@dataclass(frozen=True, slots=True)
class Postings:
    """`passages[indptr[t]:indptr[t + 1]]` hold term t, ascending; `frequencies` runs beside it."""

    terms: dict[str, int]
    indptr: NDArray[np.int64]  # [terms + 1]
    passages: NDArray[np.uint32]  # [entries]
    frequencies: NDArray[np.uint32]  # [entries]
    lengths: NDArray[np.uint32]  # [passages], terms counted with repetition

    @property
    def size(self) -> int:
        """The number of passages."""
        return len(self.lengths)

    def document_frequency(self, term: str) -> int:
        """How many passages hold `term`."""
        column = self.terms.get(term)
        return 0 if column is None else int(self.indptr[column + 1] - self.indptr[column])

    def select(self, passages: NDArray[np.int64]) -> Postings:
        """Only these passages, renumbered from 0; `passages` ascend."""
        numbers = np.full(self.size, -1, dtype=np.int64)
        numbers[passages] = np.arange(len(passages))
        new = numbers[self.passages]
        chosen = new >= 0
        column = np.repeat(np.arange(len(self.terms)), np.diff(self.indptr))[chosen]
        sizes = np.bincount(column, minlength=len(self.terms))
        used = sizes > 0
        position = np.cumsum(used) - 1
        return Postings(
            terms={t: int(position[c]) for t, c in self.terms.items() if used[c]},
            indptr=boundaries(sizes[used]),
            passages=new[chosen].astype(np.uint32),
            frequencies=self.frequencies[chosen],
            lengths=self.lengths[passages],
        )


def boundaries(sizes: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int64]:
    """Where each of several runs begins when they stand in a row, and where the last ends."""
    result = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=result[1:])
    return result


def postings_of(passages: Iterable[Sequence[str]]) -> Postings:
    """Count the terms of each passage. Terms are numbered in sorted order, as in a Whoosh index."""
    columns: dict[str, tuple[list[int], list[int]]] = {}
    lengths: list[int] = []
    for number, terms in enumerate(passages):
        lengths.append(len(terms))
        for term, frequency in Counter(terms).items():
            ids, counts = columns.setdefault(term, ([], []))
            ids.append(number)
            counts.append(frequency)
    names = sorted(columns)
    indptr = boundaries([len(columns[name][0]) for name in names])
    return Postings(
        terms={term: number for number, term in enumerate(names)},
        indptr=indptr,
        passages=np.fromiter(
            (i for name in names for i in columns[name][0]), np.uint32, indptr[-1]
        ),
        frequencies=np.fromiter(
            (c for name in names for c in columns[name][1]), np.uint32, indptr[-1]
        ),
        lengths=np.asarray(lengths, dtype=np.uint32),
    )


def merge(parts: Sequence[Postings]) -> Postings:
    """Append the passages of each part to those of the parts before it."""
    terms = {t: n for n, t in enumerate(sorted({t for part in parts for t in part.terms}))}
    columns: list[NDArray[np.int64]] = []
    offset = 0
    passages: list[NDArray[np.uint32]] = []
    for part in parts:
        names = np.fromiter((terms[t] for t in part.terms), np.int64, len(part.terms))
        order = np.fromiter(part.terms.values(), np.int64, len(part.terms))
        names[order] = names.copy()
        columns.append(np.repeat(names, np.diff(part.indptr)))
        passages.append(part.passages + np.uint32(offset))
        offset += part.size
    column = np.concatenate(columns) if columns else np.zeros(0, np.int64)
    # A stable sort keeps the parts in order, so passages stay ascending within a term.
    order = np.argsort(column, kind="stable")
    return Postings(
        terms=terms,
        indptr=boundaries(np.bincount(column, minlength=len(terms))),
        passages=np.concatenate(passages)[order],
        frequencies=np.concatenate([part.frequencies for part in parts])[order],
        lengths=np.concatenate([part.lengths for part in parts]),
    )


def saturation(postings: Postings, average_length: float) -> NDArray[np.float32]:
    """The part of BM25 that does not change with the corpus: tf / (tf + k1 (1 - b + b |d| / avg)).

    Lucene's form, without its constant factor (k1 + 1), which changes no order. [entries]
    """
    average = average_length if average_length > 0 else 1.0
    norms = K1 * (1.0 - B + B * postings.lengths.astype(np.float64) / average)
    tf = postings.frequencies.astype(np.float64)
    return (tf / (tf + norms[postings.passages])).astype(np.float32)


def average_length(lengths: NDArray[np.uint32]) -> float:
    """The mean of the passages' lengths; 0 for no passage."""
    return float(lengths.mean(dtype=np.float64)) if len(lengths) else 0.0
