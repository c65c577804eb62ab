"""Documents: what is taken, what is refused and where, and when two texts are the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_data.documents import (
    Document,
    InvalidDocument,
    canonical_language,
    content_id,
    entities_of,
    from_canonical,
    near_duplicate,
    normalise,
    parse_document,
)
from index_data.entities import within
from index_data.filters import parse_filter
from index_data.text.similarity import Known

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FULL: dict[str, Any] = {
    "id": "t-1",
    "text": "The parcel\nnever came.\t订单没到",
    "title": "Parcel",
    "lang": "en",
    "label": "delivery",
    "labels": {"sentiment": "negative", "topics": ["parcel", "delay"]},
    "metadata": {"year": 2024, "score": 0.5, "open": True, "note": None, "tags": ["a"]},
}


def test_a_whole_document_comes_back_as_it_was_given() -> None:
    document = parse_document(FULL)
    assert document.labels == {**FULL["labels"], "label": "delivery"}
    assert document.label_values("topics") == ("parcel", "delay")
    assert document.label_values("label") == ("delivery",)
    assert document.label_values("none") == ()
    assert parse_document(document.to_json()) == document
    assert from_canonical(document.canonical(), 0) == document


@given(
    st.dictionaries(
        st.sampled_from(["id", "text", "title", "lang", "label", "labels", "metadata", "x"]),
        ANY_JSON,
    )
    | ANY_JSON
)
def test_any_json_is_a_document_or_refused_with_a_pointer(raw: object) -> None:
    refusal = None
    try:
        document = parse_document(raw)
    except InvalidDocument as error:
        refusal = error
    if refusal is not None:
        assert refusal.pointer == "" or refusal.pointer.startswith("/")
        assert len(str(refusal)) < 1_000
        str(refusal).encode()
    else:
        assert parse_document(document.to_json()) == document
        assert from_canonical(document.canonical(), 0) == document


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"text": ""}, "/text"),
        ({"text": " \n "}, "/text"),
        ({"text": None}, "/text"),
        ({"text": 3}, "/text"),
        ({"text": "a\x00b"}, "/text"),
        ({"text": "a\ud800b"}, "/text"),
        ({"text": "x" * 1_000_001}, "/text"),
        ({"id": ""}, "/id"),
        ({"id": "a/b"}, "/id"),
        ({"id": "a\nb"}, "/id"),
        ({"id": "x" * 257}, "/id"),
        ({"id": 7}, "/id"),
        ({"title": "\x07"}, "/title"),
        ({"lang": "english!"}, "/lang"),
        ({"lang": "e"}, "/lang"),
        ({"lang": "en-"}, "/lang"),
        ({"label": 1}, "/label"),
        ({"label": ""}, "/label"),
        ({"label": "billing", "labels": {"label": "other"}}, "/label"),
        ({"label": None, "labels": []}, "/labels"),
        ({"labels": {"topics": ["a", 1]}}, "/labels/topics/1"),
        ({"labels": {"a/b~": 1}}, "/labels/a~1b~0"),
        ({"labels": {"": "x"}}, "/labels/"),
        ({"metadata": []}, "/metadata"),
        ({"metadata": {"x": float("nan")}}, "/metadata/x"),
        ({"metadata": {"x": [float("inf")]}}, "/metadata/x/0"),
        ({"metadata": {"x": 2**63}}, "/metadata/x"),
        ({"metadata": {"x": "\ud800"}}, "/metadata/x"),
        ({"metadata": {"x": "y" * 70_000}}, "/metadata"),
        ({"colour": "Vermilion"}, "/colour"),
        ({"\ud800": 1}, "/?"),
    ],
)
def test_what_is_refused_names_its_place(change: dict[str, object], pointer: str) -> None:
    with pytest.raises(InvalidDocument) as refusal:
        parse_document({**FULL, **change})
    assert refusal.value.pointer == pointer
    assert "Vermilion" not in refusal.value.detail


def test_deep_metadata_is_refused_without_recursing_far() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidDocument, match="nested deeper"):
        parse_document({"text": "x", "metadata": {"x": deep}})
    while isinstance(deep, list):  # or the interpreter frees it recursively
        deep = deep.pop()


def test_the_same_text_without_an_id_is_the_same_document() -> None:
    first, second = parse_document({"text": "Same"}), parse_document({"text": "Same", "label": "x"})
    assert first.id == second.id == content_id("Same") != content_id("same")


def test_an_etag_follows_the_content_and_not_the_sequence() -> None:
    a = Document("1", "text", labels={"b": "1", "a": "2"})
    b = Document("1", "text", labels={"a": "2", "b": "1"}, sequence=9)
    assert a.etag == b.etag
    assert a.etag[0] == a.etag[-1] == '"'
    assert Document("1", "text").etag != a.etag


def test_language_tags_come_in_their_usual_case() -> None:
    assert canonical_language("EN") == "en"
    assert canonical_language("zh-hant-tw") == "zh-Hant-TW"
    assert canonical_language("en-u-ca") == "en-u-ca"
    assert canonical_language("e n") is None


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert near_duplicate(text, text)


def test_near_duplicates() -> None:
    text = "I was charged twice for one order and want the second payment back as soon as possible"
    assert near_duplicate(text, text.upper() + "  ")
    assert near_duplicate(text, text + " please!")
    assert near_duplicate("ｃａｆé", "CAFÉ")
    assert not near_duplicate(text, "I was charged twice for one order")
    assert not near_duplicate("yes", "no")
    assert not near_duplicate("", "no")
    chinese = "我的订单被重复扣款了，请尽快退还第二笔款项，谢谢你们的帮助"
    assert near_duplicate(chinese, chinese + "！")
    assert near_duplicate(chinese, chinese.replace("的帮助", ""))
    assert not near_duplicate(chinese, "我的包裹还没有到，请帮我查一下物流")


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "我的", "包裹", "!"]), max_size=14)


@given(st.lists(WORDS, max_size=6), WORDS)
def test_known_texts_are_found_as_by_comparing_with_each(
    known: list[list[str]], asked: list[str]
) -> None:
    texts, text = [" ".join(words) for words in known], " ".join(asked)
    assert Known(texts).near(text) == any(near_duplicate(text, one) for one in texts)


@given(st.text(max_size=60), st.text(max_size=60))
def test_near_duplicate_is_symmetric(a: str, b: str) -> None:
    assert near_duplicate(a, b) == near_duplicate(b, a)


@pytest.mark.parametrize(
    ("entities", "pointer"),
    [
        ("DATE", ""),
        ([7], "/0"),
        ([{"start": 0, "end": 3}], "/0/type"),
        ([{"start": 0, "end": 3, "type": ""}], "/0/type"),
        ([{"start": 0, "end": "3", "type": "A"}], "/0/end"),
        ([{"start": True, "end": 3, "type": "A"}], "/0/start"),
        ([{"start": 0, "end": 99, "type": "A"}], "/0"),
        ([{"start": 3, "end": 3, "type": "A"}], "/0"),
        ([{"start": 4, "end": 7, "type": "A"}, {"start": 0, "end": 5, "type": "B"}], "/1"),
        ([{"start": 0, "end": 3, "type": "A", "text": "two"}], "/0/text"),
        ([{"start": 0, "end": 1, "type": "A"}] * 1_001, ""),
    ],
)
def test_entities_that_do_not_fit_the_text_are_refused(entities: object, pointer: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        parse_document({"text": "one two", "metadata": {"entities": entities}})
    assert refused.value.pointer == f"/metadata/entities{pointer}"


def test_entities_are_kept_as_given_and_found_by_their_types() -> None:
    given = [
        {"start": 4, "end": 7, "type": "B"},
        {"start": 0, "end": 3, "type": "A", "text": "one", "by": "me"},
    ]
    document = parse_document({"text": "one two", "metadata": {"entities": given}})
    assert document.metadata["entities"] == given
    assert entities_of(document) == ((0, 3, "A"), (4, 7, "B"))
    assert within(((0, 3, "A"), (4, 7, "B")), 4, 7) == ((0, 3, "B"),)
    assert parse_filter({"metadata.entities": "B"}).matches(document)
    assert not parse_filter({"metadata.entities": "C"}).matches(document)
    assert entities_of(parse_document({"text": "one"})) is None
    assert entities_of(Document("x", "one", metadata={"entities": ["loose"]})) is None
