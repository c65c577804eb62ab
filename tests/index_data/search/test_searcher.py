"""Searching a snapshot: grouping, filters, exclusion, labels, vectors that are missing."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_data.documents import Document
from index_data.filters import parse_filter
from index_data.generations.delta import State
from index_data.search.searcher import METHODS, MethodUnavailable, Searcher
from index_data.segment.segment import segment_of
from index_data.segment.view import ScorerOf, compiled, whole, whoosh_in_memory

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
LONG = " ".join(f"Sentence {i} is about {WORDS[i % 6]} only." for i in range(40))


def state_of(
    documents: Sequence[Document], *, words: int = 0, scorer: ScorerOf = compiled
) -> State:
    segment = segment_of(documents, passage_words=words, average_length=4.0)
    return State(
        views=(whole(segment, scorer(segment, 4.0)),),
        average_length=4.0,
        basis=len(documents),
        sequence=0,
        passage_words=words,
        scorer=scorer,
    )


def searcher_of(state: State) -> Searcher:
    return Searcher(state.views, generation=1, sequence=state.sequence)


def test_a_long_document_is_one_hit_by_its_best_passage() -> None:
    documents = [Document("long", LONG, title="Letters"), Document("short", "gamma alone")]
    searcher = searcher_of(state_of(documents, words=20))
    hits = searcher.search("gamma", k=5)
    assert [hit.doc_id for hit in hits] == ["short", "long"]
    assert "gamma" in hits[1].text
    assert hits[1].text == LONG[hits[1].start : hits[1].end]
    assert len(hits[1].text) < len(LONG) / 2
    assert hits[0].scores == {"bm25": hits[0].score}
    assert [hit.doc_id for hit in searcher.search("letters", k=1)] == ["long"]


def test_grouping_finds_k_documents_behind_many_passages_of_one() -> None:
    heap = " ".join("Only alpha and alpha here." for _ in range(200))
    documents = [Document("heap", heap), *(Document(f"d{i}", f"alpha w{i} " * 3) for i in range(9))]
    searcher = searcher_of(state_of(documents, words=10))
    assert len(searcher.search("alpha", k=10)) == 10
    assert len(searcher.search("alpha", k=50)) == 10


documents_of = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.integers(0, 3)),
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(
    first=documents_of,
    later=st.lists(st.tuples(st.integers(0, 20), documents_of), max_size=5),
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4),
    label=st.none() | st.integers(0, 3),
    k=st.integers(1, 8),
)
def test_both_scorers_agree_with_deletions_and_delta(
    first: list[tuple[list[str], int]],
    later: list[tuple[int, list[tuple[list[str], int]]]],
    query: list[str],
    label: int | None,
    k: int,
) -> None:
    def make(rows: list[tuple[list[str], int]], at: int) -> list[Document]:
        return [
            Document(f"d{at + i}", " ".join(words), labels={"label": f"l{n}"}, sequence=at + 1)
            for i, (words, n) in enumerate(rows)
        ]

    states = [state_of(make(first, 0), scorer=scorer) for scorer in (compiled, whoosh_in_memory)]
    for step, (at, rows) in enumerate(later):
        written = [
            Document(d.id, d.text, labels=d.labels, sequence=100 + step) for d in make(rows, at)
        ]
        gone = {f"d{at + 3}": 101 + step}
        states = [state.apply(written, gone) for state in states]
    wanted = None if label is None else parse_filter({"label": f"l{label}"})
    text = " ".join(query)
    found = [searcher_of(state).search(text, k=k, filter=wanted) for state in states]
    assert [h.doc_id for h in found[0]] == [h.doc_id for h in found[1]]
    np.testing.assert_allclose([h.score for h in found[0]], [h.score for h in found[1]], rtol=1e-6)
    live = {d.id: d for d in searcher_of(states[0]).documents()}
    assert searcher_of(states[0]).size == len(live)
    matching = {
        name
        for name, d in live.items()
        if set(query) & set(d.text.split()) and (wanted is None or wanted.matches(d))
    }
    assert len(found[0]) == min(k, len(matching))
    assert {h.doc_id for h in found[0]} <= matching


def test_excluded_documents_make_room_for_others() -> None:
    documents = [Document(f"d{i}", f"alpha beta {i}") for i in range(60)]
    searcher = searcher_of(state_of(documents))
    names = [f"d{i}" for i in range(55)]
    assert [h.doc_id for h in searcher.search("alpha", k=3, exclude_ids=names)] == [
        "d55",
        "d56",
        "d57",
    ]
    hits = searcher.search("alpha", k=3, exclude=lambda d: int(d.id[1:]) < 58)
    assert [h.doc_id for h in hits] == ["d58", "d59"]
    assert [h.rank for h in hits] == [1, 2]


def test_labels_are_those_of_live_documents() -> None:
    state = state_of(
        [
            Document("a", "alpha", labels={"label": "x", "tags": ["p", "q"]}),
            Document("b", "beta", labels={"label": "y"}),
        ]
    )
    searcher = searcher_of(state)
    assert searcher.field_labels("label") == ["x", "y"]
    assert searcher.field_labels("tags") == ["p", "q"]
    assert searcher.field_labels("none") == []
    assert searcher.fields() == ["label", "tags"]
    later = searcher_of(
        state.apply([Document("c", "c", labels={"label": "z"}, sequence=2)], {"b": 3})
    )
    assert later.field_labels("label") == ["x", "z"]
    assert searcher_of(state.apply([], {"a": 3})).fields() == ["label"]
    assert searcher.field_labels("label") == ["x", "y"]


def test_filters_on_metadata_keep_types_apart() -> None:
    documents = [
        Document("a", "alpha", metadata={"year": 1, "inner": {"name": "x"}}),
        Document("b", "alpha", metadata={"year": True}),
        Document("c", "alpha", metadata={"year": [1.0, 5]}),
    ]
    searcher = searcher_of(state_of(documents))

    def found(raw: dict[str, object]) -> list[str]:
        return [h.doc_id for h in searcher.search("alpha", k=5, filter=parse_filter(raw))]

    assert found({"metadata.year": 1}) == ["a", "c"]
    assert found({"metadata.year": True}) == ["b"]
    assert found({"metadata.year": {"gte": 2}}) == ["c"]
    assert found({"metadata.inner.name": "x"}) == ["a"]
    assert found({}) == ["a", "b", "c"]


def test_methods_that_cannot_be_had_say_so() -> None:
    searcher = searcher_of(state_of([Document("a", "alpha")]))
    assert searcher.default_method == "bm25"
    for method in METHODS[1:]:
        with pytest.raises(MethodUnavailable):
            searcher.search("alpha", k=1, method=method, query_vector=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="no method"):
        searcher.search("alpha", k=1, method="magic")


def test_an_empty_index_finds_nothing() -> None:
    searcher = searcher_of(state_of([]))
    assert searcher.search("alpha", k=3) == []
    assert searcher.size == 0
