"""Filter columns: for every field and value, the documents that hold it (an inverted index)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.filters import Filter, Scalar, column_values
from index_data.roles import COLUMN as ROLE
from index_data.roles import ROLES, SAID, Role, marks_example
from index_data.segment.postings import boundaries


@dataclass(frozen=True, slots=True)
class Columns:
    """Value v of column c stands at row `starts[c] + v` of `indptr`, whose documents ascend."""

    values: dict[str, list[Scalar]]
    starts: dict[str, int]
    indptr: NDArray[np.int64]
    documents: NDArray[np.uint32]
    size: int

    def mask(self, filter: Filter) -> NDArray[np.bool_]:
        """The documents that satisfy every clause. [documents]"""
        result = np.ones(self.size, dtype=np.bool_)
        for clause in filter.clauses:
            passing = np.zeros(self.size, dtype=np.bool_)
            for value, documents in self.holders(clause.name):
                if clause.accepts(value):
                    passing[documents] = True
            result &= passing
        return result

    def names(self, prefix: str) -> list[str]:
        """The columns whose names begin so."""
        return [name for name in self.values if name.startswith(prefix)]

    def holders(self, name: str) -> Iterator[tuple[Scalar, NDArray[np.uint32]]]:
        """Each value of a column with the documents that hold it."""
        if name == ROLE:
            yield from self._roles()
        for row, value in enumerate(self.values.get(name, ()), self.starts.get(name, 0)):
            yield value, self.documents[self.indptr[row] : self.indptr[row + 1]]

    def _roles(self) -> Iterator[tuple[Role, NDArray[np.uint32]]]:
        """The documents of each role, as `index_data.roles.role_of` has it of one document."""
        examples = np.zeros(self.size, dtype=np.bool_)
        for name in filter(marks_example, self.values):
            for _, documents in self.holders(name):
                examples[documents] = True
        said = dict(self.holders(SAID))
        for role in ROLES:
            if role in said:
                examples[said[role]] = role == "example"
        yield "example", np.flatnonzero(examples).astype(np.uint32)
        yield "knowledge", np.flatnonzero(~examples).astype(np.uint32)


class ColumnsBuilder:
    """Collects the columns of documents that are added in the order of their numbers."""

    def __init__(self) -> None:
        # In JSON true is not 1, in Python they are equal: the type is part of the key.
        self._columns: dict[str, dict[tuple[bool, Scalar], list[int]]] = {}
        self._size = 0

    def add(self, document: Document) -> None:
        """Take the next document."""
        for name in _names(document):
            column = self._columns.setdefault(name, {})
            keys = {(isinstance(value, bool), value) for value in column_values(document, name)}
            for key in keys:
                column.setdefault(key, []).append(self._size)
        self._size += 1

    def build(self) -> Columns:
        """The columns of all that were added."""
        holders = [rows for column in self._columns.values() for rows in column.values()]
        starts: dict[str, int] = {}
        row = 0
        for name, column in self._columns.items():
            starts[name] = row
            row += len(column)
        indptr = boundaries([len(rows) for rows in holders])
        return Columns(
            values={name: [v for _, v in column] for name, column in self._columns.items()},
            starts=starts,
            indptr=indptr,
            documents=np.fromiter((d for rows in holders for d in rows), np.uint32, indptr[-1]),
            size=self._size,
        )


def columns_of(documents: Iterable[Document]) -> Columns:
    """The columns of documents, numbered in the order they come."""
    builder = ColumnsBuilder()
    for document in documents:
        builder.add(document)
    return builder.build()


def _names(document: Document) -> Iterator[str]:
    if document.lang is not None:
        yield "lang"
    for field in document.labels:
        yield f"labels.{field}"
    yield from _paths(document.metadata, "metadata.")


def _paths(metadata: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in metadata.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key
