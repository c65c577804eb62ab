"""The shapes in which training data arrives, checked row by row and brought into one form a task.

    squad           {"id"?, "title"?, "question", "context",
                    "answers": [{"text", "start" | "answer_start"}]},
                    or an article or paragraph of the SQuAD file: several rows in one line
    conll           {"id"?, "tokens": [...], "tags": [...]}: IOB2, or IOB1 (an I- may begin)
    spans           {"id"?, "text", "entities": [{"start", "end", "type", "text"?}]}
    classification  {"id"?, "text", "label" | "labels"}
    text            a document, of which "id", "title" and "text" are kept; only where the shape is
                    named, since a row of `classification` may have lost its label

All offsets count code points. A row that cannot be taken is an ``InvalidDocument`` with a pointer
and a reason; no message repeats the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from index_data.documents import FIELDS, InvalidDocument, child_pointer, parse_document

MAX_NAME: Final = 256
NESTED: Final = ("data", "paragraphs", "qas")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape. ``mark``: a field that only its rows have; ``family``: what it trains."""

    mark: str | None
    family: str
    fields: frozenset[str]
    parse: Callable[[Mapping[str, Any]], Row]


def kind_of(raw: object) -> str:
    """The shape of a row, by the field that only it has. Raises ``InvalidDocument``."""
    if not isinstance(raw, Mapping):
        raise InvalidDocument("", "a row is a JSON object")
    if any(name in raw for name in NESTED):
        return "squad"
    for kind, shape in SHAPES.items():
        if shape.mark in raw or (kind == "classification" and "labels" in raw):
            return kind
    if "text" in raw:
        raise InvalidDocument("", "a text alone: name the kind `text` if that is what is meant")
    raise InvalidDocument("", "none of question, tokens, entities, label or labels is there")


def rows_of(raw: object, kind: str) -> Iterator[tuple[str, Row | InvalidDocument]]:
    """The rows of one line with their pointers: each a row, or what is wrong with it."""
    for pointer, part in _unnested(raw, ""):
        try:
            if isinstance(part, InvalidDocument):
                raise part
            shape = SHAPES[kind]
            if not isinstance(part, Mapping):
                raise InvalidDocument("", "a row is a JSON object")
            if shape.mark is not None and (actual := kind_of(part)) != kind:
                raise InvalidDocument("", f"a row of shape {actual} in a dataset of shape {kind}")
            for name in part:
                if name not in shape.fields:
                    raise InvalidDocument(child_pointer("", name), "unknown field")
            yield pointer, shape.parse(part)
        except InvalidDocument as error:
            yield pointer, InvalidDocument(pointer + error.pointer, error.detail)


def _unnested(raw: object, pointer: str) -> Iterator[tuple[str, Any]]:
    """The SQuAD file's articles, paragraphs and questions, taken apart; else the row itself."""
    level = next((n for n in NESTED if isinstance(raw, Mapping) and n in raw), None)
    if level is None or not isinstance(raw, Mapping):
        yield pointer, raw
        return
    inner = raw[level]
    if not isinstance(inner, list) or not inner:
        yield pointer, InvalidDocument(f"/{level}", "must be a list with something in it")
        return
    for i, part in enumerate(inner):
        place = f"{pointer}/{level}/{i}"
        if level == "qas" and isinstance(part, Mapping):
            part = {**part, "context": raw.get("context")}
        if level != "data" and isinstance(part, Mapping) and "title" in raw:
            part = {"title": raw["title"], **part}
        yield from _unnested(part, place)


def _text(value: object, pointer: str) -> str:
    try:
        return parse_document({"text": value}).text
    except InvalidDocument as error:
        raise InvalidDocument(pointer, error.detail) from None


def _name(value: object, pointer: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME:
        raise InvalidDocument(pointer, f"must be a string of 1 to {MAX_NAME} characters")
    return _text(value, pointer)


def _identified(raw: Mapping[str, Any], row: Row) -> Row:
    given = raw.get("id")
    return row if given is None else {"id": _name(given, "/id"), **row}


def _list(value: object, pointer: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidDocument(pointer, "must be a list")
    return value


def _classification(raw: Mapping[str, Any]) -> Row:
    value = raw.get("label_name", raw.get("label"))
    given = {"label": value} if value is not None else {}
    labels = raw.get("labels")
    if isinstance(labels, list):
        given = {**given, "labels": {"label": labels}} if not given else {**given, "labels": labels}
    elif labels is not None:
        given["labels"] = labels
    document = parse_document({"text": raw.get("text"), **given})
    if not any(document.labels.values()):
        raise InvalidDocument("/label", "a label, or labels with something in them, is needed")
    return _identified(raw, {"text": document.text, "labels": document.labels})


def _plain(raw: Mapping[str, Any]) -> Row:
    document = parse_document(raw)
    title = {} if document.title is None else {"title": document.title}
    return _identified(raw, {**title, "text": document.text})


def _squad(raw: Mapping[str, Any]) -> Row:
    question, context = (
        _text(raw.get("question"), "/question"),
        _text(raw.get("context"), "/context"),
    )
    given = raw.get("answers", [] if raw.get("is_impossible") is True else None)
    if isinstance(given, Mapping):  # as the `datasets` library has it: a list for each field
        texts = _list(given.get("text"), "/answers/text")
        starts = _list(given.get("answer_start", given.get("start")), "/answers/answer_start")
        if len(texts) != len(starts):
            raise InvalidDocument("/answers", f"{len(texts)} texts and {len(starts)} starts")
        given = [{"text": t, "start": s} for t, s in zip(texts, starts, strict=True)]
    answers: list[Row] = []
    for i, answer in enumerate(_list(given, "/answers")):
        place = f"/answers/{i}"
        if not isinstance(answer, Mapping):
            raise InvalidDocument(place, "must be an object with text and start")
        text = _text(answer.get("text"), f"{place}/text")
        start = answer.get("start", answer.get("answer_start"))
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise InvalidDocument(f"{place}/start", "must be a whole number, 0 or more")
        if context[start : start + len(text)] != text:
            raise InvalidDocument(f"{place}/start", f"at {start} the context has another text")
        if {"text": text, "start": start} not in answers:
            answers.append({"text": text, "start": start})
    row: Row = {"question": question, "context": context, "answers": answers}
    if raw.get("title") is not None:  # the name of a page of Wikipedia, in SQuAD
        title = parse_document({"text": context, "title": raw["title"]}).title or ""
        row["title"] = title.replace("_", " ").strip()
    return _identified(raw, row)


def _spans(raw: Mapping[str, Any]) -> Row:
    text = _text(raw.get("text"), "/text")
    entities: list[Row] = []
    for i, entity in enumerate(_list(raw.get("entities"), "/entities")):
        place = f"/entities/{i}"
        if not isinstance(entity, Mapping):
            raise InvalidDocument(place, "must be an object with start, end and type")
        for name in entity:
            if name not in ("start", "end", "type", "text"):
                raise InvalidDocument(child_pointer(place, name), "unknown field")
        start, end = entity.get("start"), entity.get("end")
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (start, end))
        if not whole or not 0 <= start < end <= len(text):  # type: ignore[operator]
            why = f"start and end must lie in order within the {len(text)} characters of the text"
            raise InvalidDocument(place, why)
        if "text" in entity and entity["text"] != text[start:end]:
            raise InvalidDocument(f"{place}/text", "differs from the text between start and end")
        entities.append(
            {"start": start, "end": end, "type": _name(entity.get("type"), f"{place}/type")}
        )
    order = sorted(range(len(entities)), key=lambda i: (entities[i]["start"], entities[i]["end"]))
    for before, after in pairwise(order):
        if entities[after]["start"] < entities[before]["end"]:
            why = f"overlaps entity {min(before, after)}"
            raise InvalidDocument(f"/entities/{max(before, after)}", why)
    return _identified(raw, {"text": text, "entities": [entities[i] for i in order]})


def _conll(raw: Mapping[str, Any]) -> Row:
    tokens, tags = _list(raw.get("tokens"), "/tokens"), _list(raw.get("tags"), "/tags")
    if not tokens or len(tokens) != len(tags):
        raise InvalidDocument("/tags", f"{len(tokens)} tokens and {len(tags)} tags")
    text, places = joined([_text(t, f"/tokens/{i}") for i, t in enumerate(tokens)])
    entities: list[Row] = []
    before = "O"
    for i, (tag, (start, end)) in enumerate(zip(tags, places, strict=True)):
        if not isinstance(tag, str) or (
            tag != "O" and (tag[:2] not in ("B-", "I-") or not tag[2:])
        ):
            raise InvalidDocument(f"/tags/{i}", "must be O, or B- or I- and a type")
        if tag != "O":
            kind = _name(tag[2:], f"/tags/{i}")
            # IOB1 begins with I-, and with B- only right after an entity of the same type.
            if tag[0] == "I" and before[1:] == tag[1:]:
                entities[-1]["end"] = end
            else:
                entities.append({"start": start, "end": end, "type": kind})
        before = tag
    return _identified(raw, {"text": text, "entities": entities})


def joined(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Tokens as a text, and where each stands: with spaces, but none between CJK characters."""
    text, places = "", []
    for token in tokens:
        if text and not (_is_cjk(text[-1]) and _is_cjk(token[0])):
            text += " "
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def _is_cjk(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\uffef"


SHAPES: Final[Mapping[str, Shape]] = {
    "squad": Shape(
        "question",
        "qa",
        frozenset({"id", "title", "question", "context", "answers", "is_impossible",
                   "plausible_answers"}),
        _squad,
    ),
    "conll": Shape("tokens", "ner", frozenset({"id", "doc", "tokens", "tags"}), _conll),
    "spans": Shape("entities", "ner", frozenset({"id", "text", "entities"}), _spans),
    "classification": Shape(
        "label",
        "classification",
        frozenset({"id", "text", "label", "label_name", "labels"}),
        _classification,
    ),
    "text": Shape(None, "pretrain", FIELDS, _plain),
}  # fmt: skip
"""The order in which a row's shape is looked for."""
