"""A segment as files: flat arrays that are memory-mapped, JSON for what is looked up by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from index_data.documents import Document, from_canonical
from index_data.segment.coarse import Coarse
from index_data.segment.columns import Columns
from index_data.segment.manifest import Manifest
from index_data.segment.postings import Postings, boundaries
from index_data.segment.segment import Ids, Segment
from index_data.segment.topk import NO_MASK
from index_data.storage.database import synced_file

DOCUMENTS = "documents.bin"
VECTORS = "vectors.npy"
CODES = "codes.npy"
SCALES = "scales.npy"
DIGESTS = "passage_digests.npy"


class DocumentFile(Sequence[Document]):
    """Documents one after the other in a memory-mapped file, each decoded on access."""

    def __init__(
        self, content: NDArray[np.uint8], ends: NDArray[np.int64], sequences: NDArray[np.int64]
    ) -> None:
        self._content = content
        self._ends = ends
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, index: int | slice) -> Document | tuple[Document, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        row = range(len(self))[index]
        start = int(self._ends[row - 1]) if row else 0
        raw = self._content[start : int(self._ends[row])].tobytes()
        return from_canonical(raw, int(self._sequences[row]))


def save_array(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Write an array so that it is on the disk when this returns."""
    with synced_file(folder / name) as file:
        np.save(file, array, allow_pickle=False)


def load_array(folder: Path, name: str) -> NDArray[Any]:
    """Map an array into memory, read-only. An empty one cannot be mapped and is read."""
    path = folder / name
    mode: Literal["r"] | None = "r" if path.stat().st_size > 128 else None
    array = np.load(path, mmap_mode=mode, allow_pickle=False)
    array.flags.writeable = False
    return np.asarray(array)


def save_segment(
    folder: Path,
    postings: Postings,
    parts: NDArray[np.float32],
    *,
    ends: NDArray[np.int64],
    sequences: NDArray[np.int64],
    counts: NDArray[np.int64],
    spans: NDArray[np.uint32],
    ids: Ids,
    columns: Columns,
) -> None:
    """What a search needs of postings, documents and passages, but for texts and vectors."""
    for name, content in (
        ("terms.json", list(postings.terms)),
        ("columns.json", [columns.values, columns.starts]),
    ):
        with synced_file(folder / name) as file:
            file.write(orjson.dumps(content))
    arrays: dict[str, NDArray[Any]] = {
        "indptr": postings.indptr,
        "passages": postings.passages,
        "frequencies": postings.frequencies,
        "lengths": postings.lengths,
        "parts": parts,
        "document_ends": ends,
        "sequences": sequences,
        "offsets": boundaries(counts),
        "owners": np.repeat(np.arange(len(counts), dtype=np.uint32), counts),
        "spans": spans,
        "id_digests": ids.digests,
        "id_rows": ids.rows,
        "column_indptr": columns.indptr,
        "column_documents": columns.documents,
    }
    for name, array in arrays.items():
        save_array(folder, f"{name}.npy", array)


def load_segment(folder: Path, manifest: Manifest, *, with_vectors: bool = True) -> Segment:
    """Open a verified generation's segment."""
    terms = orjson.loads((folder / "terms.json").read_bytes())
    values, starts = orjson.loads((folder / "columns.json").read_bytes())
    documents = load_documents(folder)
    vectors, has_vector, coarse = None, NO_MASK, None
    if with_vectors and manifest.dim is not None:
        vectors = load_array(folder, VECTORS)
        has_vector = load_array(folder, "has_vector.npy")
        if CODES in manifest.files:
            coarse = Coarse(load_array(folder, CODES), load_array(folder, SCALES))
    return Segment(
        postings=Postings(
            terms=dict(zip(terms, range(len(terms)), strict=True)),
            indptr=load_array(folder, "indptr.npy"),
            passages=load_array(folder, "passages.npy"),
            frequencies=load_array(folder, "frequencies.npy"),
            lengths=load_array(folder, "lengths.npy"),
        ),
        parts=load_array(folder, "parts.npy"),
        documents=documents,
        offsets=load_array(folder, "offsets.npy"),
        owners=load_array(folder, "owners.npy"),
        spans=load_array(folder, "spans.npy"),
        ids=Ids(load_array(folder, "id_digests.npy"), load_array(folder, "id_rows.npy")),
        columns=Columns(
            values=values,
            starts=starts,
            indptr=load_array(folder, "column_indptr.npy"),
            documents=load_array(folder, "column_documents.npy"),
            size=len(documents),
        ),
        vectors=vectors,
        has_vector=has_vector,
        coarse=coarse,
    )


def load_documents(folder: Path) -> DocumentFile:
    """The documents of a generation."""
    path = folder / DOCUMENTS
    empty = np.zeros(0, np.uint8)
    content = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else empty
    return DocumentFile(
        content, load_array(folder, "document_ends.npy"), load_array(folder, "sequences.npy")
    )


def stored_passages(folder: Path) -> Iterator[tuple[Document, int, int, int, int]]:
    """Every passage of a generation in order: document, start, end, which of how many it is."""
    spans = load_array(folder, "spans.npy")
    offsets = load_array(folder, "offsets.npy")
    for row, document in enumerate(load_documents(folder)):
        own = spans[offsets[row] : offsets[row + 1]].tolist()
        for position, (start, end) in enumerate(own):
            yield document, start, end, position, len(own)
