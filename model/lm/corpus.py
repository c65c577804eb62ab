"""Text to pre-train on, as arrays: chunks of tokens, whose they are, what was retrieved for each.

    tokens.npy      [N, c] uint16   chunks; a document's last one is filled with PAD
    document.npy    [N] int32       whose chunk it is; a document's chunks stand together, in order
    neighbours.npy  [N, k] int32    chunks retrieved by the past of each, best first, -1: no more
    documents.json                  id, source and split of each document, sizes, counts

Retrieval has happened when a model sees a corpus, so it can be kept, compared and replayed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.lm.config import PAD, START, LMConfig
from model.lm.network import LMBatch

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LMDocument:
    """One document: `first` and `end` are its chunks."""

    id: str
    source: str
    split: str  # train, dev or test
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class LMCorpus:
    """See the module; arrays may be mapped from disk."""

    tokens: NDArray[np.uint16]
    document: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    documents: list[LMDocument]
    notes: dict[str, Any]

    @property
    def chunk(self) -> int:
        """Tokens a chunk."""
        return int(self.tokens.shape[1])

    def chunks_of(self, split: str, source: str | None = None) -> Numbers:
        """The numbers of a split's chunks, ascending."""
        ranges = [
            np.arange(d.first, d.end)
            for d in self.documents
            if d.split == split and source in (None, d.source)
        ]
        return np.concatenate(ranges) if ranges else np.zeros(0, dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write the files of the module's list; the JSON comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokens", "document", "neighbours"):
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        listed = [[d.id, d.source, d.split, d.first, d.end] for d in self.documents]
        raw = {"notes": self.notes, "documents": listed}
        (folder / "documents.json").write_text(json.dumps(raw), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LMCorpus:
        """Read what `save` wrote, mapped from disk. Raises OSError and ValueError."""
        raw = json.loads((folder / "documents.json").read_text(encoding="utf-8"))
        tokens, document, neighbours = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("tokens", "document", "neighbours")
        )
        documents = [LMDocument(*row) for row in raw["documents"]]
        return cls(tokens, document, neighbours, documents, raw["notes"])

    def sha256(self) -> str:
        """Of all arrays and of who is in which split."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.document, self.neighbours):
            digest.update(np.ascontiguousarray(array).tobytes())
        for document in self.documents:
            digest.update(json.dumps([document.id, document.split]).encode())
        return digest.hexdigest()

    def batch(self, rows: Numbers, config: LMConfig, neighbours: Numbers | None = None) -> LMBatch:
        """Rows of chunks [b, n] as a model reads them, -1: an empty chunk.

        `neighbours` [b, n, k] stand in for what was retrieved; only the first k are read.

        Raises:
            ValueError: The model was made for chunks of another length.
        """
        if config.chunk != self.chunk:
            raise ValueError(f"chunks of {self.chunk}, the model reads {config.chunk}")
        there = rows >= 0
        at = np.where(there, rows, 0)
        targets = np.where(there[..., None], self.tokens[at], PAD).astype(np.int64)
        document = np.where(there, self.document[at], -1)
        before = np.maximum(at - 1, 0)
        opens = (at == 0) | (self.document[before] != self.document[at])
        lead = np.where(opens, START, self.tokens[before, -1]).astype(np.int64)
        inputs = np.concatenate([lead[..., None], targets[..., :-1]], -1)
        inputs = np.where(there[..., None], inputs, PAD)
        if neighbours is None:
            neighbours = np.where(there[..., None], self.neighbours[at], -1)
        distinct, places = np.unique(neighbours[..., : config.k], return_inverse=True)
        places = places.reshape(*rows.shape, -1)
        if len(distinct) and distinct[0] < 0:
            distinct, places = distinct[1:], places - 1
        passages = self.passages(distinct.astype(np.int64), config.passage_chunks)
        return LMBatch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(document.astype(np.int64)),
            torch.from_numpy(passages),
            torch.from_numpy(places.astype(np.int64)),
        )

    def passages(self, chunks: Numbers, length: int) -> Numbers:
        """Tokens [u, length * c] of chunks and what follows in their documents; u is 1 or more."""
        if not len(chunks):
            return np.full((1, length * self.chunk), PAD, dtype=np.int64)
        parts = []
        for step in range(length):
            at = np.minimum(chunks + step, len(self.tokens) - 1)
            same = (self.document[at] == self.document[chunks]) & (at == chunks + step)
            parts.append(np.where(same[:, None], self.tokens[at], PAD))
        return np.concatenate(parts, -1).astype(np.int64)


def chunked(ids: NDArray[np.uint16], size: int) -> NDArray[np.uint16]:
    """The tokens of a document [t] as chunks [ceil(t / size), size]."""
    count = -(-len(ids) // size)
    out = np.full(count * size, PAD, dtype=np.uint16)
    out[: len(ids)] = ids
    return out.reshape(count, size)


def make_corpus(
    documents: Sequence[tuple[str, str, str]],
    ids: Sequence[NDArray[np.uint16]],
    chunk: int,
    k: int,
    notes: dict[str, Any],
) -> LMCorpus:
    """A corpus of (id, source, split) and the tokens of each, in which nothing is retrieved yet."""
    parts = [chunked(one, chunk) for one in ids]
    counts = [len(part) for part in parts]
    ends = np.cumsum([0, *counts])
    listed = [
        LMDocument(*document, int(first), int(end))
        for document, first, end in zip(documents, ends[:-1], ends[1:], strict=True)
    ]
    return LMCorpus(
        np.concatenate(parts) if parts else np.zeros((0, chunk), dtype=np.uint16),
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.full((int(ends[-1]), k), -1, dtype=np.int32),
        listed,
        notes,
    )
