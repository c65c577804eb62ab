"""Every labelled set of the evaluation data, cut down to what a user's own documents look like.

A pool of training rows (a fixed shuffle, `POOL` at most), of which a size and a seed draw some, and
at most `TESTED` rows to ask. A test row whose text is also in the pool is left out (ChnSentiCorp
publishes 333 of them). `mixed` puts the labels of several sets into one field, for 150 labels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import rows
from benchmarks.data.classification import Example, Split, with_vectors
from model.encoder.encoder import Encoder

POOL = 6_000
TESTED = 1_500
MOST_CHARS = 2_000
"""No text is read further, by no model."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a set lies: its splits, the field of its label, and bounds of its own."""

    train: str
    test: str | None
    field: str = "label"
    pool: int = POOL
    tested: int = TESTED


SOURCES = {
    "trec6": Source("trec6/train", "trec6/test"),
    "trec_fine": Source("trec6/train", "trec6/test", field="label_fine"),
    "banking77": Source("banking77/train", "banking77/test", pool=10_003),
    "sst2": Source("sst2/train", "sst2/test"),
    "thucnews": Source("thucnews_titles/train_subset", "thucnews_titles/test"),
    "ag_news": Source("ag_news/train_subset", "ag_news/test"),
    "dbpedia14": Source("dbpedia14/train_subset", None),
    "chnsenticorp": Source("chnsenticorp/train", "chnsenticorp/test"),
    "imdb": Source("imdb/train_subset", "imdb/test_subset", pool=5_000, tested=1_000),
}
MIXED = ("banking77", "trec_fine", "dbpedia14", "ag_news", "sst2")
NAMES = (*SOURCES, "mixed")


def load(name: str, encoder: Encoder) -> tuple[Split, Split]:
    """The pool and the test rows of a set, with vectors [n, d] of unit length."""
    if name == "mixed":
        return _mixed(encoder)
    source = SOURCES[name]
    pool = _shuffled(source.train, source.field, 0)
    if source.test is None:
        test, pool = pool[: source.tested], pool[source.tested :]
    else:
        test = _shuffled(source.test, source.field, 1)
    pool = pool[: source.pool]
    known = {" ".join(row.text.lower().split()) for row in pool}
    test = [row for row in test if " ".join(row.text.lower().split()) not in known]
    test = test[: source.tested]
    return with_vectors(pool, encoder, f"own-{name}-pool"), with_vectors(
        test, encoder, f"own-{name}-test"
    )


def draw(pool: Split, each: int | None, most: int, seed: int) -> list[int]:
    """Places of `each` rows of every label (all of them for None), `most` at most."""
    order = random.Random(seed).sample(range(len(pool.rows)), len(pool.rows))
    left = dict.fromkeys({row.label for row in pool.rows}, each or len(order))
    picked: list[int] = []
    for i in order:
        if left[pool.rows[i].label] > 0:
            left[pool.rows[i].label] -= 1
            picked.append(i)
    return picked[:most]


def _shuffled(name: str, field: str, seed: int) -> list[Example]:
    found = list(_examples(name, field))
    random.Random(seed).shuffle(found)
    return found


def _examples(name: str, field: str) -> Iterator[Example]:
    for i, row in enumerate(rows(name)):
        label = row.get("label_name", row["label"]) if field == "label" else row[field]
        yield Example(f"{name}-{i}", row["text"][:MOST_CHARS], str(label))


def _mixed(encoder: Encoder) -> tuple[Split, Split]:
    parts = [(name, *load(name, encoder)) for name in MIXED]
    pool = _joined([(name, pool, len(pool.rows)) for name, pool, _ in parts])
    test = _joined([(name, test, TESTED) for name, _, test in parts])
    order = random.Random(2).sample(range(len(test.rows)), min(TESTED, len(test.rows)))
    return pool, test.take(order)


def _joined(parts: Sequence[tuple[str, Split, int]]) -> Split:
    found = [
        Example(f"{name}-{row.id}", row.text, f"{name}: {row.label}")
        for name, split, most in parts
        for row in split.rows[:most]
    ]
    vectors: NDArray[np.float32] = np.concatenate([s.vectors[:most] for _, s, most in parts])
    return Split(found, vectors)
