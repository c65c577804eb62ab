"""Which documents a checkpoint was trained on, by digests of ids: to name it when one is erased."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

DOCUMENTS = "documents.bin"
SIZE = 8


def digest(doc_id: str) -> bytes:
    """64 bits of BLAKE2b of an id."""
    return hashlib.blake2b(doc_id.encode("utf-8", "replace"), digest_size=SIZE).digest()


def digests(doc_ids: Iterable[str]) -> bytes:
    """The digests of ids, each once and sorted: the content of the file."""
    return b"".join(sorted({digest(doc_id) for doc_id in doc_ids}))


def trained_on(checkpoint: Path, doc_id: str) -> bool | None:
    """Whether a checkpoint was trained on a document; None: it was never written down.

    Each head has a list of its own; a language model has one.

    Raises:
        OSError: The folder does not read.
    """
    wanted, unknown = digest(doc_id), False
    heads = checkpoint / "heads"
    for part in heads.iterdir() if heads.is_dir() else (checkpoint,):
        path = part / DOCUMENTS
        if not path.is_file():
            unknown = True
            continue
        known = path.read_bytes()
        if any(known[i : i + SIZE] == wanted for i in range(0, len(known), SIZE)):
            return True
    return None if unknown else False
