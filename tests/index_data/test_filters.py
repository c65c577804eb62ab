"""Filters: what they match, on documents and on columns alike, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_data.documents import Document
from index_data.filters import InvalidFilter, column_values, parse_filter

DOCUMENT = Document(
    "1",
    "text",
    lang="en",
    labels={"label": "billing", "topics": ["card", "refund"]},
    metadata={
        "year": 2020,
        "open": True,
        "tags": ["a", 3],
        "day": "2024-05-01",
        "a": {"b": 1.5},
        "x.y": "dotted",
        "none": None,
    },
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, True),
        ({"lang": "en"}, True),
        ({"lang": "EN"}, True),
        ({"lang": ["zh", "en"]}, True),
        ({"lang": "zh"}, False),
        ({"label": "billing"}, True),
        ({"label": ["a", "b"]}, False),
        ({"label": []}, False),
        ({"labels.label": "billing"}, True),
        ({"labels.topics": "refund"}, True),
        ({"labels.topics": ["x", "card"]}, True),
        ({"labels.other": "x"}, False),
        ({"metadata.year": 2020}, True),
        ({"metadata.year": 2020.0}, True),
        ({"metadata.year": "2020"}, False),
        ({"metadata.open": True}, True),
        ({"metadata.open": 1}, False),
        ({"metadata.tags": 3}, True),
        ({"metadata.tags": ["b", "a"]}, True),
        ({"metadata.a.b": 1.5}, True),
        ({"metadata.x.y": "dotted"}, True),
        ({"metadata.none": "None"}, False),
        ({"metadata.year": {"gte": 2020}}, True),
        ({"metadata.year": {"gt": 2020}}, False),
        ({"metadata.year": {"gt": 2019.5, "lt": 2021}}, True),
        ({"metadata.year": {"lte": 2019}}, False),
        ({"metadata.year": {"gte": "2020"}}, False),
        ({"metadata.open": {"gte": 0}}, False),
        ({"metadata.day": {"gte": "2024-01-01", "lt": "2025-01-01"}}, True),
        ({"metadata.missing": {"lt": 5}}, False),
        ({"lang": "en", "label": "billing", "metadata.year": 2020}, True),
        ({"lang": "en", "label": "other"}, False),
    ],
)
def test_what_a_filter_matches(raw: dict[str, Any], expected: bool) -> None:
    found = parse_filter(raw)
    assert found.matches(DOCUMENT) is expected
    by_columns = all(
        any(clause.accepts(value) for value in column_values(DOCUMENT, clause.name))
        for clause in found.clauses
    )
    assert by_columns is expected


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ([], ""),
        ("lang", ""),
        (None, ""),
        ({"colour": 1}, "/colour"),
        ({"labels": {"a": 1}}, "/labels"),
        ({"labels.": "a"}, "/labels."),
        ({"metadata.x": None}, "/metadata.x"),
        ({"metadata.x": [1, [2]]}, "/metadata.x/1"),
        ({"metadata.x": float("nan")}, "/metadata.x"),
        ({"metadata.x": 2**63}, "/metadata.x"),
        ({"metadata.x": "\ud800"}, "/metadata.x"),
        ({"metadata.x": {}}, "/metadata.x"),
        ({"metadata.x": {"near": 1}}, "/metadata.x/near"),
        ({"metadata.x": {"gt": True}}, "/metadata.x/gt"),
        ({"metadata.x": {"gt": 1, "lt": "2"}}, "/metadata.x"),
        ({"metadata.x": {"gt": [1]}}, "/metadata.x/gt"),
        ({"label": {"gt": "a"}}, "/label"),
        ({"label": 3}, "/label"),
        ({"label": ["a", 3]}, "/label/1"),
        ({"lang": "e!"}, "/lang"),
        ({"label": "a", "labels.label": "b"}, "/label"),
        ({"metadata.x": list(range(2_000))}, "/metadata.x"),
        ({f"metadata.{i}": 1 for i in range(40)}, ""),
    ],
)
def test_what_a_filter_refuses(raw: object, pointer: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        parse_filter(raw)
    assert refusal.value.pointer == pointer


def test_a_filter_is_a_key_that_keeps_types_apart() -> None:
    one, true = parse_filter({"metadata.x": 1}), parse_filter({"metadata.x": True})
    assert one != true
    assert {one: "a", true: "b"}[parse_filter({"metadata.x": 1})] == "a"
    assert parse_filter({"label": ["b", "a", "a"]}) == parse_filter({"labels.label": ["a", "b"]})
    assert parse_filter({"lang": "en", "label": "a"}) == parse_filter({"label": "a", "lang": "en"})
    assert not parse_filter({})


@given(
    st.dictionaries(
        st.sampled_from(["lang", "label", "labels.t", "metadata.k"]) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["gt", "lt", "gte", "lte", "x"]), inner, max_size=2
                )
            ),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_any_object_is_a_filter_or_refused(raw: dict[str, object]) -> None:
    refusal = None
    try:
        found = parse_filter(raw)
    except InvalidFilter as error:
        refusal = error
    if refusal is not None:
        assert refusal.pointer == "" or refusal.pointer.startswith("/")
        str(refusal).encode()
    else:
        assert found == parse_filter(raw)
        assert found.matches(DOCUMENT) in (True, False)
