"""Which documents a checkpoint was trained on, by digests of ids: to name it when one is erased."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DOCUMENTS = "documents.bin"
SIZE = 8


@lru_cache(maxsize=1 << 16)
def digest(doc_id: str) -> bytes:
    """64 bits of BLAKE2b of an id."""
    return hashlib.blake2b(doc_id.encode("utf-8", "replace"), digest_size=SIZE).digest()


def digests(doc_ids: Iterable[str]) -> bytes:
    """The digests of ids, each once and sorted: the content of the file."""
    return b"".join(sorted({digest(doc_id) for doc_id in doc_ids}))


def united(*known: bytes) -> bytes:
    """Several of such lists as one."""
    parts = {part[i : i + SIZE] for part in known for i in range(0, len(part), SIZE)}
    return b"".join(sorted(parts))


class TrainedOn:
    """The documents of one head, from what `digests` made; empty: nothing was written down."""

    def __init__(self, known: bytes = b"") -> None:
        self._known = np.frombuffer(known, dtype=">u8").astype(np.uint64)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, doc_id: str) -> bool:
        return not self.lacks([doc_id])[0]

    def lacks(self, doc_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of some documents are not among them."""
        if not len(self._known):
            return np.ones(len(doc_ids), dtype=np.bool_)
        given = np.frombuffer(b"".join(map(digest, doc_ids)), dtype=">u8").astype(np.uint64)
        places = np.searchsorted(self._known, given).clip(max=len(self._known) - 1)
        lacking: NDArray[np.bool_] = self._known[places] != given
        return lacking


def listed(part: Path) -> bytes | None:
    """The list of a head or of a language model by its folder; None: there is none.

    Raises:
        OSError: The folder does not read.
    """
    path = part / DOCUMENTS
    return path.read_bytes() if path.is_file() else None


def trained_on(checkpoint: Path, doc_id: str) -> bool | None:
    """Whether a checkpoint was trained on a document; None: it was never written down.

    Each head has a list of its own; a language model has one.

    Raises:
        OSError: The folder does not read.
    """
    unknown = False
    heads = checkpoint / "heads"
    for part in heads.iterdir() if heads.is_dir() else (checkpoint,):
        known = listed(part)
        if known is None:
            unknown = True
        elif doc_id in TrainedOn(known):
            return True
    return None if unknown else False
