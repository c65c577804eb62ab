"""The compiled scorer against Whoosh's own scoring, and both against the formula."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whoosh.writing import SegmentWriter

from index_data.segment.postings import (
    K1,
    B,
    Postings,
    average_length,
    merge,
    postings_of,
    saturation,
)
from index_data.segment.scoring import CompiledScorer, idf
from index_data.segment.topk import NO_MASK, intersection
from index_data.segment.whoosh_index import (
    MemoryStorage,
    WhooshScorer,
    _fill,
    compile_postings,
    in_memory,
    open_index,
    write,
)

TERMS = [*"abcdefgh", "naïve", "退货", "x" * 40]
passages = st.lists(st.lists(st.sampled_from(TERMS), max_size=30), max_size=25)
queries = st.lists(st.sampled_from([*TERMS, "unknown"]), max_size=8)


def weights_of(query: list[str], postings: Postings) -> dict[str, float]:
    return {
        term: idf(postings.size, postings.document_frequency(term)) * count
        for term, count in Counter(query).items()
        if postings.document_frequency(term)
    }


def by_formula(query: list[str], corpus: list[list[str]]) -> list[float]:
    average = sum(map(len, corpus)) / len(corpus)
    scores = []
    for passage in corpus:
        score = 0.0
        for term in query:
            tf, df = passage.count(term), sum(term in other for other in corpus)
            inverse = math.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))
            if tf:
                score += inverse * tf / (tf + K1 * (1 - B + B * len(passage) / average))
        scores.append(score)
    return scores


def masks(data: st.DataObject, size: int) -> tuple[np.ndarray, np.ndarray]:
    def mask() -> np.ndarray:
        if data.draw(st.booleans()):
            return NO_MASK
        return np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.uint8)

    return mask(), mask()


@settings(max_examples=150, deadline=None)
@given(corpus=passages, query=queries, k=st.integers(1, 12), data=st.data())
def test_compiled_equals_whoosh_in_scores_and_order(
    corpus: list[list[str]], query: list[str], k: int, data: st.DataObject
) -> None:
    postings = postings_of(corpus)
    average = average_length(postings.lengths)
    allowed = intersection(*masks(data, postings.size))
    weights = weights_of(query, postings)
    ours = CompiledScorer(postings, saturation(postings, average)).top(weights, k, allowed)
    whoosh = WhooshScorer(in_memory(postings), postings.lengths, average)
    theirs = whoosh.top(weights, k, allowed)
    assert ours[0].tolist() == theirs[0].tolist()
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(corpus=passages.filter(bool), query=queries)
def test_scores_are_the_formula(corpus: list[list[str]], query: list[str]) -> None:
    if not any(corpus):
        return
    postings = postings_of(corpus)
    scorer = CompiledScorer(postings, saturation(postings, average_length(postings.lengths)))
    weights = weights_of(query, postings)
    everything = np.arange(len(corpus))
    expected = by_formula(query, corpus)
    np.testing.assert_allclose(scorer.of(weights, everything), expected, rtol=1e-5)
    found, scores = scorer.top(weights, len(corpus))
    single = np.array(expected, dtype=np.float32)
    assert sorted(found.tolist()) == np.flatnonzero(single).tolist()
    np.testing.assert_allclose(scores, single[found], rtol=1e-5)
    assert all(
        a > b or (a == b and x < y)
        for a, b, x, y in zip(scores[:-1], scores[1:], found[:-1], found[1:], strict=True)
    )


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(passages, min_size=1, max_size=4))
def test_merging_is_counting_all_at_once(parts: list[list[list[str]]]) -> None:
    merged = merge([postings_of(part) for part in parts])
    assert_equal(merged, postings_of([passage for part in parts for passage in part]))


@settings(max_examples=100, deadline=None)
@given(corpus=passages, data=st.data())
def test_selecting_is_counting_what_is_left(corpus: list[list[str]], data: st.DataObject) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=len(corpus), max_size=len(corpus)))
    left = [passage for passage, kept in zip(corpus, keep, strict=True) if kept]
    assert_equal(postings_of(corpus).select(np.flatnonzero(keep)), postings_of(left))


def test_the_arrays_are_what_whoosh_wrote(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(50)]
    # 300 passages: more than one block of postings a term, and terms that are met once.
    corpus = [list(random.choice(words, random.integers(0, 40))) + [f"o{i}"] for i in range(300)]
    write(tmp_path / "whoosh", corpus)
    assert_equal(compile_postings(open_index(tmp_path / "whoosh"), 300), postings_of(corpus))


def test_an_index_of_nothing(tmp_path: Path) -> None:
    write(tmp_path / "whoosh", [])
    index = open_index(tmp_path / "whoosh")
    assert_equal(compile_postings(index, 0), postings_of([]))
    lengths = np.zeros(0, np.uint32)
    assert len(WhooshScorer(index, lengths, 0.0).top({"a": 1.0}, 3)[0]) == 0


@pytest.mark.parametrize("copies", [2, 300])
def test_ties_go_to_the_lower_number(copies: int) -> None:
    postings = postings_of([["a", "b"]] * copies)
    scorer = CompiledScorer(postings, saturation(postings, 2.0))
    found, _ = scorer.top({"a": 1.0, "b": 0.5}, copies // 2)
    assert found.tolist() == list(range(copies // 2))


def assert_equal(ours: Postings, theirs: Postings) -> None:
    assert list(ours.terms.items()) == list(theirs.terms.items())
    for name in ("indptr", "passages", "frequencies", "lengths"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_indexes_in_memory_are_written_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    postings = postings_of([["a", "b"], ["a"]])

    def terms() -> Iterator[list[str]]:
        yield ["a"]
        assert compile_postings(in_memory(postings), 2).terms == {"a": 0, "b": 1}
        yield ["a"]

    index = _fill(MemoryStorage(), terms())
    assert compile_postings(index, 2).passages.tolist() == [0, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_index_raises_what_went_wrong_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = SegmentWriter.cancel

    def failed_commit(writer: SegmentWriter) -> None:
        raise OSError("the disk is full")

    def failed_cancel(writer: SegmentWriter) -> None:
        cancel(writer)
        raise OSError("this file is already closed")

    monkeypatch.setattr(SegmentWriter, "commit", failed_commit)
    monkeypatch.setattr(SegmentWriter, "cancel", failed_cancel)
    with pytest.raises(OSError, match="the disk is full"):
        in_memory(postings_of([["a"]]))
