"""Filters: which documents a search, a listing or a deletion is about.

``{"lang": "en", "label": ["a", "b"], "labels.topic": "x", "metadata.year": {"gte": 3, "lt": 9}}``:
a value is equality, a list is any-of, an object is a range; all parts must hold. A field with
several values (a list) satisfies a part when one of them does.

A filter is evaluated either on documents (:meth:`Filter.matches`) or on columns: for each
``clause``, a column stores ``column_values(document, clause.name)``, and ``clause.accepts(value)``
decides on each distinct value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from typing import Any, Final

import orjson

from index_data.documents import (
    Document,
    Invalid,
    canonical_language,
    check_encodable,
    check_number,
    child_pointer,
)
from index_data.entities import COLUMN as ENTITIES
from index_data.roles import COLUMN as ROLE
from index_data.roles import Role, role_of

Scalar = str | int | float | bool

MAX_CLAUSES = 32
MAX_VALUES = 1_024
MAX_VALUE_CHARS = 1_024

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"gte": ge, "gt": gt, "lte": le, "lt": lt}


class InvalidFilter(Invalid):
    """A filter that cannot be read; the pointer is relative to it."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One part of a filter on the column ``name``: any of ``any_of``, or within ``bounds``."""

    name: str
    any_of: tuple[Scalar, ...] | None
    bounds: tuple[tuple[str, Scalar], ...] = ()
    _keys: frozenset[tuple[str, Scalar]] = field(default=frozenset(), repr=False, compare=False)

    def accepts(self, value: Scalar) -> bool:
        """Whether one value passes; JSON's types are kept apart (``true`` is not ``1``)."""
        if self.any_of is not None:
            return (_kind(value), value) in self._keys
        return all(
            _kind(value) == _kind(limit) and _OPERATORS[name](value, limit)
            for name, limit in self.bounds
        )

    def matches(self, document: Document) -> bool:
        """Whether one of the document's values in this column passes."""
        return any(self.accepts(value) for value in column_values(document, self.name))


@dataclass(frozen=True)
class Filter:
    """All clauses must hold.

    Equal and hashed by ``key``, its canonical JSON, so that it can be the key of a cache: Python
    holds ``1`` and ``True`` equal, which a filter must not.
    """

    key: str
    clauses: tuple[Clause, ...] = field(compare=False)

    def matches(self, document: Document) -> bool:
        """Whether every clause holds."""
        return all(clause.matches(document) for clause in self.clauses)

    def also(self, other: Filter | None) -> Filter:
        """What passes both."""
        if not other:
            return self
        return Filter(f"{self.key} {other.key}", (*self.clauses, *other.clauses))

    def __bool__(self) -> bool:
        return bool(self.clauses)


def parse_filter(raw: object) -> Filter:
    """A :class:`Filter` from decoded JSON; raises :class:`InvalidFilter`. ``{}`` matches all."""
    if not isinstance(raw, Mapping):
        raise InvalidFilter("", "a filter is a JSON object")
    if len(raw) > MAX_CLAUSES:
        raise InvalidFilter("", f"{len(raw)} parts; at most {MAX_CLAUSES}")
    clauses = tuple(
        sorted((_clause(name, value) for name, value in raw.items()), key=lambda c: c.name)
    )
    names = [clause.name for clause in clauses]
    if len(set(names)) < len(names):
        raise InvalidFilter("/label", "'label' and 'labels.label' are the same field")
    canonical = [[clause.name, clause.any_of, clause.bounds] for clause in clauses]
    return Filter(orjson.dumps(canonical).decode(), clauses)


def column_values(document: Document, name: str) -> tuple[Scalar, ...]:
    """The values a document has in a column: ``lang``, ``labels.<field>``, ``metadata.<key>``.

    Those of ``metadata.entities`` are their types. ``role`` has one value, `role_of`.
    """
    if name == "lang":
        return () if document.lang is None else (document.lang,)
    if name == ROLE:
        return (role_of(document),)
    kind, _, key = name.partition(".")
    if kind == "labels":
        return document.label_values(key)
    value = _find(document.metadata, key)
    values = value if isinstance(value, list) else [value]
    if name == ENTITIES:
        values = [v.get("type") if isinstance(v, dict) else v for v in values]
    return tuple(v for v in values if isinstance(v, str | int | float))


def _find(metadata: Mapping[str, Any], key: str) -> object:
    """The value under a key; a dotted key that is not there itself is a path into objects."""
    if key in metadata:
        return metadata[key]
    first, dot, rest = key.partition(".")
    inner = metadata.get(first)
    return _find(inner, rest) if dot and isinstance(inner, dict) else None


def _kind(value: Scalar) -> str:
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number"


def _clause(name: object, value: object) -> Clause:
    pointer = child_pointer("", name)
    column = _column(name, pointer)
    if isinstance(value, Mapping):
        if column == "lang" or column.startswith("labels."):
            raise InvalidFilter(pointer, "a range applies to metadata only")
        return Clause(column, None, _bounds(value, pointer))
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_VALUES:
        raise InvalidFilter(pointer, f"{len(values)} values; at most {MAX_VALUES}")
    places = [f"{pointer}/{i}" for i in range(len(values))] if values is value else [pointer]
    scalars = [_scalar(v, place) for v, place in zip(values, places, strict=True)]
    if not column.startswith("metadata."):
        for scalar, place in zip(scalars, places, strict=True):
            if not isinstance(scalar, str):
                raise InvalidFilter(place, "must be a string")
    if column == "lang":
        scalars = [_language(str(v), place) for v, place in zip(scalars, places, strict=True)]
    keys = {(_kind(v), v): v for v in scalars}
    ordered = tuple(keys[k] for k in sorted(keys, key=lambda k: (k[0], k[1])))
    return Clause(column, ordered, (), frozenset(keys))


def _column(name: object, pointer: str) -> str:
    if not isinstance(name, str):
        raise InvalidFilter(pointer, "unknown field")
    if name == "label":
        return "labels.label"
    kind, _, key = name.partition(".")
    if name == "lang" or (kind in ("labels", "metadata") and key):
        _check_string(name, pointer)
        return name
    raise InvalidFilter(
        pointer, "unknown field; filters take lang, label, labels.<field> and metadata.<key>"
    )


def _bounds(value: Mapping[object, object], pointer: str) -> tuple[tuple[str, Scalar], ...]:
    if not value:
        raise InvalidFilter(pointer, "an empty range; use gte, gt, lte or lt")
    bounds: dict[str, Scalar] = {}
    for name, limit in value.items():
        place = child_pointer(pointer, name)
        if not isinstance(name, str) or name not in _OPERATORS:
            raise InvalidFilter(place, "unknown operator; ranges take gte, gt, lte and lt")
        scalar = _scalar(limit, place)
        if isinstance(scalar, bool):
            raise InvalidFilter(place, "must be a number or a string")
        bounds[name] = scalar
    if len({_kind(limit) for limit in bounds.values()}) > 1:
        raise InvalidFilter(pointer, "both ends of a range must be of one type")
    return tuple(sorted(bounds.items()))


def _scalar(value: object, pointer: str) -> Scalar:
    if isinstance(value, str):
        _check_string(value, pointer)
        return value
    if isinstance(value, int | float):
        check_number(value, pointer, InvalidFilter)
        return value
    raise InvalidFilter(pointer, "must be a string, a number, a boolean, a list or a range")


def _check_string(value: str, pointer: str) -> None:
    if len(value) > MAX_VALUE_CHARS:
        raise InvalidFilter(pointer, f"{len(value)} characters; at most {MAX_VALUE_CHARS}")
    check_encodable(value, pointer, InvalidFilter)


def _language(value: str, pointer: str) -> str:
    tag = canonical_language(value)
    if tag is None:
        raise InvalidFilter(pointer, "must be a BCP 47 language tag")
    return tag


MARKED: Final = parse_filter({ENTITIES: {"gte": ""}})
"""Documents with an entity of any type."""


def _of_role(role: Role) -> Filter:
    return Filter(f"role {role}", (Clause(ROLE, (role,), (), frozenset({("string", role)})),))


EXAMPLES: Final = _of_role("example")
KNOWLEDGE: Final = _of_role("knowledge")


def carrying(field: str) -> Filter:
    """Documents with a label in a field, whatever it is."""
    name = f"labels.{field}"
    return Filter(f"any {name}", (Clause(name, None, (("gte", ""),)),))


def examples_of(field: str) -> Filter:
    """The examples of a label field: documents that carry it, but for those that say knowledge."""
    return carrying(field).also(EXAMPLES)
