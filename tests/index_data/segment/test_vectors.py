"""The exact product over half precision, and how two rankings become one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_data.search.fusion import LONG, SHORT, Fusion, convex
from index_data.segment.coarse import Coarse, coarse_rows, coarse_top
from index_data.segment.topk import NO_MASK, intersection
from index_data.segment.vectors import dense_of, dense_top, from_half, present, to_half


def unit_rows(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    normalised: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    dim=st.sampled_from([1, 3, 8, 33, 64]),
    k=st.integers(1, 70),
    seed=st.integers(0, 99),
    masked=st.booleans(),
)
def test_the_product_is_exact(count: int, dim: int, k: int, seed: int, masked: bool) -> None:
    half = to_half(unit_rows(count, dim, seed))
    query = unit_rows(1, dim, seed + 1)[0]
    live = NO_MASK
    if masked:
        live = np.random.default_rng(seed).integers(0, 2, count).astype(np.uint8)
    expected = from_half(half) @ query
    everything = dense_of(query, half, np.arange(count))
    np.testing.assert_allclose(everything, expected, atol=2e-6)
    found, scores = dense_top(query, half, k, live)
    kept = np.flatnonzero(live) if masked else np.arange(count)
    order = kept[np.lexsort((kept, -everything[kept]))][:k]
    assert found.tolist() == order.tolist()
    np.testing.assert_array_equal(scores, everything[order])


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    dim=st.sampled_from([1, 3, 8, 33, 384]),
    k=st.integers(1, 30),
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.001, 0.1, 10.0]),
    masked=st.booleans(),
)
def test_eight_bits_find_the_very_same(
    count: int, dim: int, k: int, seed: int, spread: float, masked: bool
) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal(dim) + spread * random.standard_normal((count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[random.integers(0, count)] = 0.0
    half = to_half(rows.astype(np.float32))
    coarse = Coarse(np.empty((count, dim), np.int8), np.empty((count, 2), np.float32))
    coarse_rows(half, coarse.codes, coarse.scales)
    query = unit_rows(1, dim, seed + 1)[0] if seed % 2 else from_half(half)[0]
    masks = [present(half), NO_MASK, NO_MASK]
    if masked:
        masks[1:] = random.integers(0, 2, (2, count)).astype(np.uint8)
    allowed = intersection(*masks)
    found, scores = coarse_top(query, coarse, half, k, allowed)
    expected, expected_scores = dense_top(query, half, k, allowed)
    assert found.tolist() == expected.tolist()
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_bound_that_is_too_narrow_would_be_seen() -> None:
    """The codes alone order passages wrongly: what is kept of the loss is needed."""
    half = to_half(unit_rows(2_000, 384, 3))
    coarse = Coarse(np.empty((2_000, 384), np.int8), np.empty((2_000, 2), np.float32))
    coarse_rows(half, coarse.codes, coarse.scales)
    query = unit_rows(1, 384, 4)[0]
    rough = (coarse.codes.astype(np.float32) * coarse.scales[:, :1]) @ query
    exact = dense_top(query, half, 100)[0]
    assert np.argsort(-rough, kind="stable")[:100].tolist() != exact.tolist()
    assert coarse_top(query, coarse, half, 100)[0].tolist() == exact.tolist()


def test_flat_vectors_do_not_overflow_at_eight_bits() -> None:
    half = to_half(np.full((2, 1024), 1 / 32, dtype=np.float32))
    coarse = Coarse(np.empty((2, 1024), np.int8), np.empty((2, 2), np.float32))
    coarse_rows(half, coarse.codes, coarse.scales)
    query = np.full(1024, 1 / 32, dtype=np.float32)
    assert coarse_top(query, coarse, half, 1)[1].tolist() == pytest.approx([1.0])


def test_every_half_is_widened_right() -> None:
    bits = np.arange(0, 0x3C01, dtype=np.int16)  # 0 to 1, the subnormals among them
    both = np.concatenate([bits, bits | np.int16(-0x8000)]).reshape(-1, 1)
    query = np.ones(1, dtype=np.float32)
    found = dense_of(query, both, np.arange(len(both)))
    np.testing.assert_array_equal(found, both.view(np.float16).astype(np.float32)[:, 0])


def test_a_row_without_a_vector_is_never_found() -> None:
    rows = unit_rows(4, 8, 0)
    rows[2] = 0.0
    half = to_half(rows)
    mask = present(half)
    assert mask.tolist() == [1, 1, 0, 1]
    assert 2 not in dense_top(rows[0], half, 4, mask)[0].tolist()
    assert len(present(to_half(unit_rows(4, 8, 0)))) == 0


@pytest.mark.parametrize("rows", [np.full((1, 4), 2.0), np.full((1, 4), np.nan), np.zeros(4)])
def test_what_is_not_normalised_is_refused(rows: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="normalised"):
        to_half(rows.astype(np.float32))


def test_fusion_at_its_ends_is_either_part() -> None:
    lexical = np.array([3.0, 0.0, 1.0], dtype=np.float32)
    dense = np.array([0.1, 0.8, -0.2], dtype=np.float32)
    known = np.ones(3, dtype=np.bool_)
    np.testing.assert_allclose(convex(lexical, dense, known, 0.0), [1, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(convex(lexical, dense, known, 1.0), [0.125, 1, 0], rtol=1e-6)
    without = convex(lexical, dense, np.array([True, False, True]), 1.0)
    assert without.tolist() == [1, 0, 0]


def test_a_fusion_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        Fusion(weight=1.5)


def test_the_longer_the_passages_the_more_their_words_weigh() -> None:
    weights = [Fusion.over(length).weight for length in (0.0, SHORT[0], 40.0, LONG[0], 500.0)]
    assert weights[0] == pytest.approx(SHORT[1]) == weights[1]
    assert weights[3] == pytest.approx(LONG[1]) == weights[4]
    assert weights[1] > weights[2] > weights[3]
