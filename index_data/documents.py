"""What a document is: the shape that users send, and its checks.

A document is validated once, here, and is trusted everywhere after. ``InvalidDocument`` names the
place with a JSON pointer relative to the document (``/labels/topic``; the empty string is the
document itself), so that a caller can put its own prefix in front. No message repeats the text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Required

import orjson
from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads `typing.TypedDict` only from Python 3.12

from index_data.entities import Entities, fault_in, spans
from index_data.text.similarity import near_duplicate, normalise

__all__ = [
    "FIELDS",
    "Document",
    "DocumentFields",
    "InvalidDocument",
    "LabelValue",
    "canonical_language",
    "content_id",
    "entities_of",
    "from_canonical",
    "near_duplicate",
    "normalise",
    "parse_document",
]

LabelValue = str | list[str]

MAX_TEXT_CHARS = 1_000_000
MAX_TITLE_CHARS = 1_000
MAX_ID_CHARS = 256
MAX_NAME_CHARS = 256
MAX_LABEL_FIELDS = 64
MAX_LABEL_VALUES = 256
MAX_METADATA_BYTES = 65_536
MAX_METADATA_DEPTH = 8

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# In running text tabs, line ends and form feeds are ordinary, and C1 codes stand in old corpora.
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_LANGUAGE_TAG = re.compile(r"(?:[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*|[xX](?:-[A-Za-z0-9]{1,8})+)")


class DocumentFields(TypedDict, total=False):
    """The fields that users send. ``parse_document`` checks them, and more than is said here."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
    text: Required[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]]
    title: Annotated[str, Field(max_length=MAX_TITLE_CHARS)] | None
    lang: Annotated[str | None, Field(description="BCP 47, such as 'en'.")]
    label: Annotated[LabelValue, Field(description="Short for `labels.label`.")]
    labels: dict[str, LabelValue]
    metadata: dict[str, Any]


FIELDS = frozenset(DocumentFields.__annotations__)
_CONTENT = ("id", "text", "title", "lang", "labels", "metadata")


class Invalid(ValueError):
    """JSON that cannot be taken: ``pointer`` says where in it, ``detail`` why."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer or '/'}: {detail}")
        self.pointer = pointer
        self.detail = detail


class InvalidDocument(Invalid):
    """A document that cannot be taken."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document. ``sequence`` is the write that made it (0: not stored yet)."""

    id: str
    text: str
    title: str | None = None
    lang: str | None = None
    labels: dict[str, LabelValue] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0

    @property
    def etag(self) -> str:
        """A strong entity tag, quotes included: SHA-256 of the content, whatever the sequence."""
        return f'"{hashlib.sha256(self.canonical()).hexdigest()[:32]}"'

    def canonical(self) -> bytes:
        """The content as JSON with sorted keys: equal documents give equal bytes."""
        return orjson.dumps(self._content(), option=orjson.OPT_SORT_KEYS)

    def label_values(self, name: str) -> tuple[str, ...]:
        """The values of one label field: none, one, or those of a list."""
        value = self.labels.get(name)
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else tuple(value)

    def to_json(self) -> dict[str, Any]:
        """The shape of the API; ``parse_document`` takes it back (without the sequence)."""
        label = self.labels.get("label")
        return self._content() | ({} if label is None else {"label": label})

    def _content(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _CONTENT}


def from_canonical(raw: bytes, sequence: int) -> Document:
    """The inverse of :meth:`Document.canonical`; raises ``ValueError`` on anything else."""
    content = orjson.loads(raw)
    try:
        return Document(**{name: content[name] for name in _CONTENT}, sequence=sequence)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a stored document: {error!r}") from error


def parse_document(raw: object) -> Document:
    """A checked :class:`Document` from decoded JSON; raises :class:`InvalidDocument`.

    Without an ``id`` one is made from the text, so the same text again is an update.
    """
    if not isinstance(raw, Mapping):
        raise InvalidDocument("", "a document is a JSON object")
    for name in raw:
        if name not in FIELDS:
            raise InvalidDocument(child_pointer("", name), "unknown field")
    text = _text(raw.get("text"))
    identifier = raw.get("id")
    return Document(
        id=content_id(text) if identifier is None else _id(identifier),
        text=text,
        title=_title(raw.get("title")),
        lang=_lang(raw.get("lang")),
        labels=_labels(raw),
        metadata=_metadata(raw.get("metadata"), text),
    )


def content_id(text: str) -> str:
    """The id of a document that came without one."""
    return f"doc-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:32]}"


def entities_of(document: Document) -> Entities | None:
    """The entities of a document; None where nobody marked any (an empty list: there are none)."""
    raw = document.metadata.get("entities")
    return None if raw is None or fault_in(document.text, raw) else spans(raw)


def canonical_language(tag: str) -> str | None:
    """A BCP 47 tag in its usual case (``zh-Hant-TW``), or None where it is not well-formed."""
    if len(tag) > 35 or not _LANGUAGE_TAG.fullmatch(tag):
        return None
    first, *rest = tag.split("-")
    parts = [first.lower()]
    for part in rest:
        if len(part) == 4 and part.isalpha():
            parts.append(part.title())
        elif len(part) == 2 and len(parts[-1]) != 1:
            parts.append(part.upper())
        else:
            parts.append(part.lower())
    return "-".join(parts)


def child_pointer(parent: str, name: object) -> str:
    """``parent`` and one more part of a JSON pointer (RFC 6901), cut and made printable."""
    part = str(name)[:64].replace("~", "~0").replace("/", "~1")
    return f"{parent}/{''.join(c if c.isprintable() else '?' for c in part)}"


def check_encodable(value: str, pointer: str, refused: type[Invalid] = InvalidDocument) -> None:
    """Refuses lone surrogates, which no UTF-8 file or answer could carry."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise refused(pointer, f"lone surrogate at character {error.start}") from None


def check_number(value: float, pointer: str, refused: type[Invalid] = InvalidDocument) -> None:
    """Refuses what is not finite, and an integer beyond 64 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        raise refused(pointer, "not a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise refused(pointer, "an integer beyond 64 bits")


def _check_control(value: str, pointer: str, control: re.Pattern[str]) -> None:
    match = control.search(value)
    if match:
        raise InvalidDocument(
            pointer, f"control character U+{ord(match[0]):04X} at character {match.start()}"
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidDocument("/text", "text is required and must be a string")
    if len(value) > MAX_TEXT_CHARS:
        raise InvalidDocument("/text", f"{len(value)} characters; at most {MAX_TEXT_CHARS}")
    check_encodable(value, "/text")
    if not value or value.isspace():
        raise InvalidDocument("/text", "text is empty")
    _check_control(value, "/text", _CONTROL_IN_TEXT)
    return value


def _line(value: object, pointer: str, limit: int) -> str:
    """A short string in one line: an id, a title, a name, a label."""
    if not isinstance(value, str):
        raise InvalidDocument(pointer, "must be a string")
    if not value or len(value) > limit:
        raise InvalidDocument(pointer, f"must have 1 to {limit} characters, has {len(value)}")
    check_encodable(value, pointer)
    _check_control(value, pointer, _CONTROL)
    return value


def _id(value: object) -> str:
    identifier = _line(value, "/id", MAX_ID_CHARS)
    if "/" in identifier:
        raise InvalidDocument("/id", "must not contain '/'")
    return identifier


def _title(value: object) -> str | None:
    if value is None or value == "":
        return None
    return _line(value, "/title", MAX_TITLE_CHARS)


def _lang(value: object) -> str | None:
    if value is None:
        return None
    tag = canonical_language(value) if isinstance(value, str) else None
    if tag is None:
        raise InvalidDocument("/lang", "must be a BCP 47 language tag, such as 'en' or 'zh-Hant'")
    return tag


def _labels(raw: Mapping[str, object]) -> dict[str, LabelValue]:
    given = raw.get("labels")
    labels: dict[str, LabelValue] = {}
    if given is not None:
        if not isinstance(given, Mapping):
            raise InvalidDocument("/labels", "must be an object of field to label")
        if len(given) > MAX_LABEL_FIELDS:
            raise InvalidDocument("/labels", f"{len(given)} fields; at most {MAX_LABEL_FIELDS}")
        for name, value in given.items():
            pointer = child_pointer("/labels", name)
            _line(name, pointer, MAX_NAME_CHARS)
            labels[name] = _label_value(value, pointer)
    if raw.get("label") is not None:
        value = _label_value(raw["label"], "/label")
        if "label" in labels and labels["label"] != value:
            raise InvalidDocument("/label", "differs from labels.label, which it is short for")
        labels["label"] = value
    return labels


def _label_value(value: object, pointer: str) -> LabelValue:
    if isinstance(value, str):
        return _line(value, pointer, MAX_NAME_CHARS)
    if not isinstance(value, list):
        raise InvalidDocument(pointer, "must be a string or a list of strings")
    if len(value) > MAX_LABEL_VALUES:
        raise InvalidDocument(pointer, f"{len(value)} values; at most {MAX_LABEL_VALUES}")
    values = [_line(v, f"{pointer}/{i}", MAX_NAME_CHARS) for i, v in enumerate(value)]
    return list(dict.fromkeys(values))


def _metadata(value: object, text: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidDocument("/metadata", "must be an object")
    _check_json(value, "/metadata", 1)
    size = len(orjson.dumps(value))
    if size > MAX_METADATA_BYTES:
        raise InvalidDocument("/metadata", f"{size} bytes as JSON; at most {MAX_METADATA_BYTES}")
    fault = fault_in(text, value["entities"]) if value.get("entities") is not None else None
    if fault is not None:
        raise InvalidDocument(f"/metadata/entities{fault[0]}", fault[1])
    return value


def _check_json(value: object, pointer: str, depth: int) -> None:
    """What can be stored and sent back unchanged: finite numbers of 64 bits, UTF-8 strings."""
    if depth > MAX_METADATA_DEPTH + 1:
        raise InvalidDocument(pointer, f"nested deeper than {MAX_METADATA_DEPTH}")
    if isinstance(value, dict):
        for name, inner in value.items():
            place = child_pointer(pointer, name)
            _line(name, place, MAX_NAME_CHARS)
            _check_json(inner, place, depth + 1)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            _check_json(inner, f"{pointer}/{position}", depth + 1)
    elif isinstance(value, str):
        check_encodable(value, pointer)
        if "\x00" in value:
            raise InvalidDocument(pointer, "control character U+0000")
    elif isinstance(value, int | float):
        check_number(value, pointer)
    elif value is not None:
        raise InvalidDocument(pointer, "not a JSON value")
