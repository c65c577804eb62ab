"""Generations: folders that are built aside, and take their name when they are whole.

`build_generation` only reads the store, so it can run in a process of its own. A folder counts once
`Index.publish` has put its manifest's sha256 into the store.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.segment import whoosh_index
from index_data.segment.coarse import coarse_rows
from index_data.segment.columns import ColumnsBuilder
from index_data.segment.files import (
    CODES,
    DIGESTS,
    DOCUMENTS,
    SCALES,
    VECTORS,
    load_array,
    save_array,
    save_segment,
    stored_passages,
)
from index_data.segment.manifest import (
    GenerationCorrupt,
    Manifest,
    verify,
    write_manifest,
)
from index_data.segment.postings import average_length, saturation
from index_data.segment.segment import Ids, embedding_text, passage_spans
from index_data.segment.vectors import Half, present, to_half
from index_data.storage.database import sync_folder, synced_file
from index_data.storage.store import ReadOnlyStore
from index_data.text import analysis
from index_data.text.analysis import STANDARD, Analyzer

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how much, and the name of the stage."""
Encode = Callable[[list[str]], NDArray[np.float32]]

WHOOSH = "whoosh"
ENCODED_AT_ONCE = 512
_NAME = re.compile(r"generation-(\d{6,})")


class BuildCancelled(RuntimeError):
    """The caller asked a build to stop; nothing of it is left."""


def generation_folders(parent: Path) -> list[tuple[int, Path]]:
    """The folders that bear a generation's name, by number, ascending."""
    matches = ((_NAME.fullmatch(path.name), path) for path in parent.glob("generation-*"))
    return sorted((int(match[1]), path) for match, path in matches if match and path.is_dir())


def build_generation(
    store_folder: Path,
    out_parent: Path,
    *,
    encode: Encode | None,
    encoder_sha: str | None,
    passage_words: int,
    analyzer: Analyzer = STANDARD,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    damaged: Callable[[list[str]], None] | None = None,
) -> Path:
    """Write a generation of all that the store holds, and return its folder.

    `encode` makes vectors [n, dim] of texts; vectors that the store or the last generation has of
    the same text and encoder are taken from there. Without `encode` there are no vectors.
    `damaged` is called with the ids of documents whose rows are, which are left out.
    Raises BuildCancelled when `cancelled` says so; whatever fails, no folder is left behind.
    """
    out_parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=out_parent))
    store = ReadOnlyStore(store_folder)
    try:
        build = _Build(aside, store, passage_words, analyzer, progress, cancelled)
        number = build.run(out_parent, encode, encoder_sha)
        if damaged is not None:
            damaged(store.damaged())
        target = out_parent / f"generation-{number:06d}"
        aside.chmod(0o755)
        aside.rename(target)
        sync_folder(out_parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        store.close()
    return target


def sync_file(path: Path) -> None:
    """Wait until a file that was written through a map is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class _Build:
    """One build: documents and Whoosh index in one pass, then the arrays, then the vectors."""

    def __init__(
        self,
        folder: Path,
        store: ReadOnlyStore,
        passage_words: int,
        analyzer: Analyzer,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._analyzer = analyzer
        self._folder = folder
        self._store = store
        self._words = passage_words
        self._progress = progress
        self._cancelled = cancelled
        self._sequence = store.sequence
        self._ids: list[str] = []
        self._ends: list[int] = []
        self._sequences: list[int] = []
        self._counts: list[int] = []
        self._spans: list[tuple[int, int]] = []
        self._digests: list[bytes] = []
        self._columns = ColumnsBuilder()

    def run(self, out_parent: Path, encode: Encode | None, encoder_sha: str | None) -> int:
        folder = self._folder
        with synced_file(folder / DOCUMENTS) as documents:
            whoosh_index.write(folder / WHOOSH, self._passages(documents.write))
        self._report(0, 1, "compile")
        index = whoosh_index.open_index(folder / WHOOSH)
        postings = whoosh_index.compile_postings(index, len(self._spans))
        average = average_length(postings.lengths)
        save_segment(
            folder,
            postings,
            saturation(postings, average),
            ends=np.array(self._ends, dtype=np.int64),
            sequences=np.array(self._sequences, dtype=np.int64),
            counts=np.array(self._counts, dtype=np.int64),
            spans=np.array(self._spans, dtype=np.uint32).reshape(-1, 2),
            ids=Ids.of(self._ids),
            columns=self._columns.build(),
        )
        digests = np.frombuffer(b"".join(self._digests), dtype=np.uint64).reshape(-1, 2)
        save_array(folder, DIGESTS, digests)
        dim = None
        if encode is not None and encoder_sha is not None:
            dim = self._vectors(encode, encoder_sha, out_parent, digests)
        self._report(0, 1, "sync")
        # The number is taken last: another build may have been published meanwhile.
        number = max((n for n, _ in generation_folders(out_parent)), default=0) + 1
        write_manifest(
            folder,
            Manifest(
                number=number,
                sequence=self._sequence,
                analyzer=self._analyzer.version,
                passage_words=self._words,
                documents=len(self._ids),
                passages=len(self._spans),
                average_length=average,
                created=time.time(),
                encoder_sha=encoder_sha if dim is not None else None,
                dim=dim,
            ),
        )
        return number

    def _passages(self, write: Callable[[bytes], object]) -> Iterator[list[str]]:
        """Write the documents down, and yield the terms of each of their passages."""
        total = self._store.count()
        end = 0
        for document in self._documents():
            self._report(len(self._ids), total, "index")
            raw = document.canonical()
            write(raw)
            end += len(raw)
            spans = passage_spans(document, self._words)
            self._ids.append(document.id)
            self._ends.append(end)
            self._sequences.append(document.sequence)
            self._counts.append(len(spans))
            self._spans += spans
            self._columns.add(document)
            for span in spans:
                text = embedding_text(document, *span)
                self._digests.append(hashlib.blake2b(text.encode(), digest_size=16).digest())
                yield analysis.terms(text, document.lang, self._analyzer)
        self._report(total, total, "index")

    def _documents(self) -> Iterator[Document]:
        """The store in the order of its writes, as far as it reached when the build began.

        What is written while we read moves behind that, and is replayed after publication.
        """
        for batch in self._store.scan(until=self._sequence):
            yield from batch

    def _vectors(
        self, encode: Encode, encoder_sha: str, out_parent: Path, digests: NDArray[np.uint64]
    ) -> int | None:
        """Fill the vectors' file and return their dimension; None when there is no passage."""
        known = _KnownVectors(self._store, out_parent, encoder_sha)
        total = len(digests)
        waiting: list[tuple[int, str]] = []
        vectors: Half | None = None
        passages = stored_passages(self._folder)
        for row, (document, start, end, position, count) in enumerate(passages):
            half = known.find(document, position, count, digests[row])
            if half is None:
                waiting.append((row, embedding_text(document, start, end)))
            else:
                vectors = self._file(vectors, total, len(half))
                vectors[row] = half
            if len(waiting) >= ENCODED_AT_ONCE or (row == total - 1 and waiting):
                made = to_half(encode([text for _, text in waiting]))
                vectors = self._file(vectors, total, made.shape[1])
                vectors[[at for at, _ in waiting]] = made
                waiting.clear()
                self._report(row + 1, total, "encode")
        if vectors is None:
            return None
        vectors.flush()  # type: ignore[attr-defined]
        sync_file(self._folder / VECTORS)
        self._coarse(vectors)
        save_array(self._folder, "has_vector.npy", present(vectors))
        return int(vectors.shape[1])

    def _coarse(self, vectors: Half) -> None:
        """Write the vectors at 8 bits too."""
        paths = self._folder / CODES, self._folder / SCALES
        rows, dim = vectors.shape
        codes = open_memmap(paths[0], mode="w+", dtype=np.int8, shape=(rows, dim))
        scales = open_memmap(paths[1], mode="w+", dtype=np.float32, shape=(rows, 2))
        coarse_rows(vectors, codes, scales)
        for array, path in zip((codes, scales), paths, strict=True):
            array.flush()
            sync_file(path)

    def _file(self, vectors: Half | None, rows: int, dim: int) -> Half:
        if vectors is not None:
            return vectors
        path = self._folder / VECTORS
        made: Half = open_memmap(path, mode="w+", dtype=np.int16, shape=(rows, dim))
        return made

    def _report(self, done: int, total: int, stage: str) -> None:
        if self._cancelled is not None and self._cancelled():
            raise BuildCancelled("cancelled")
        if self._progress is not None:
            self._progress(done, total, stage)


class _KnownVectors:
    """Vectors that need not be made again: the store's by id, the last generation's by content."""

    def __init__(self, store: ReadOnlyStore, parent: Path, encoder_sha: str) -> None:
        self._stored = {v.doc_id: v for v in store.vectors_after(0, encoder_sha)}
        self._vectors: Half | None = None
        for _, folder in reversed(generation_folders(parent)):
            try:
                manifest = verify(folder)
            except GenerationCorrupt:
                continue
            if manifest.encoder_sha == encoder_sha:
                digests = load_array(folder, DIGESTS)
                self._order = np.argsort(digests[:, 0], kind="stable")
                self._digests = digests[self._order]
                self._vectors = load_array(folder, VECTORS)
                return

    def find(
        self, document: Document, position: int, count: int, digest: NDArray[np.uint64]
    ) -> Half | None:
        """The vector of passage `position` of `count`, whose text has this digest."""
        stored = self._stored.get(document.id)
        # With a row more or less the passages were cut in another way then.
        if (
            stored is not None
            and stored.sequence == document.sequence
            and len(stored.vectors) == count
        ):
            row: Half = to_half(stored.vectors[position : position + 1].astype(np.float32))[0]
            return row
        if self._vectors is None:
            return None
        at = int(np.searchsorted(self._digests[:, 0], digest[0]))
        while at < len(self._digests) and self._digests[at, 0] == digest[0]:
            if self._digests[at, 1] == digest[1]:
                vector: Half = self._vectors[self._order[at]]
                return vector if vector.any() else None
            at += 1
        return None
