"""Rows, vectors and exact dense neighbours for the classification benchmark, cached on disk."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.tools.folders import CACHE, data_folder
from index_data.documents import near_duplicate, normalise
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.training.split import Row

POOL = 96  # neighbours looked at before near-duplicates are dropped
FILES = {
    "trec6": (["train"], "test"),
    "banking77": (["train"], "test"),
    "sst2": (["train"], "test"),
    "ag_news": (["train_subset", "train_extra_descriptions"], "test"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text."""

    id: str
    text: str
    label: str


@dataclass(slots=True)
class Split:
    """Texts with their base vectors; the vectors are what an index would hold."""

    rows: list[Example]
    vectors: NDArray[np.float32]

    def take(self, keep: Sequence[int]) -> Split:
        return Split([self.rows[i] for i in keep], self.vectors[list(keep)])


def read(name: str, split: str) -> list[Example]:
    path = data_folder() / name / f"{split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        raw = [json.loads(line) for line in file]
    return [
        Example(f"{split}-{i}", r["text"], str(r.get("label_name", r["label"])))
        for i, r in enumerate(raw)
    ]


def load(name: str, encoder: Encoder) -> tuple[Split, Split]:
    """The training part and the test part of a set, with vectors."""
    train_files, test_file = FILES[name]
    train = [row for file in train_files for row in read(name, file)]
    test = read(name, test_file)
    return with_vectors(train, encoder, f"{name}-train"), with_vectors(
        test, encoder, f"{name}-test"
    )


def with_vectors(rows: list[Example], encoder: Encoder, key: str) -> Split:
    texts = [row.text for row in rows]
    digest = hashlib.sha256("\0".join([encoder.sha256, *texts]).encode()).hexdigest()[:12]
    vectors = cached(f"{key}-{digest}", lambda: encoder.encode(texts).astype(np.float16))
    return Split(rows, vectors.astype(np.float32))


def cached(key: str, make: Callable[[], NDArray[np.float16]]) -> NDArray[np.float16]:
    path = CACHE / f"{key}.npy"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.npy")
        np.save(aside, make())
        aside.rename(path)
    loaded: NDArray[np.float16] = np.load(path)
    return loaded


def by_hash(rows: Sequence[Example], share: float) -> tuple[list[int], list[int]]:
    """Indices (kept, held out), by hash of the normalised text: equal texts fall together."""
    bucket = [
        int(hashlib.sha256(normalise(r.text).encode()).hexdigest()[:8], 16) / 2**32 for r in rows
    ]
    kept = [i for i, b in enumerate(bucket) if b >= share]
    return kept, [i for i, b in enumerate(bucket) if b < share]


def neighbours(
    queries: Split, index: Split, k: int, *, labelled: bool = True
) -> tuple[list[list[Retrieved]], int]:
    """The k nearest by exact product, no near-duplicates; and how many of those were dropped."""
    out: list[list[Retrieved]] = []
    dropped = 0
    pool = min(max(POOL, k + 16), len(index.rows))
    for start in range(0, len(queries.rows), 512):
        scores = queries.vectors[start : start + 512] @ index.vectors.T
        top = np.argpartition(-scores, pool - 1, axis=1)[:, :pool]
        for offset, (row, ids) in enumerate(zip(scores, top, strict=True)):
            text = queries.rows[start + offset].text
            hits: list[Retrieved] = []
            for j in ids[np.argsort(-row[ids], kind="stable")]:
                # Below this cosine no two texts share four fifths of their trigrams.
                if row[j] > 0.8 and near_duplicate(text, index.rows[j].text):
                    dropped += 1
                    continue
                found = index.rows[j]
                label = found.label if labelled else None
                hits.append(
                    Retrieved(
                        title=None,
                        text=found.text,
                        label=label,
                        score=float(row[j]),
                        vector=index.vectors[j],
                        doc_id=found.id,
                    )
                )
                if len(hits) == k:
                    break
            out.append(hits)
    return out, dropped


def to_rows(split: Split, hits: list[list[Retrieved]]) -> list[Row]:
    return [
        Row(id=e.id, text=e.text, label=e.label, hits=h)
        for e, h in zip(split.rows, hits, strict=True)
    ]
