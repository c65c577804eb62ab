"""Compile the kernels, or load them compiled, so that no request has to wait for it."""

from __future__ import annotations

import numpy as np

from index_data.segment.coarse import Coarse, coarse_rows, coarse_top
from index_data.segment.postings import average_length, postings_of, saturation
from index_data.segment.scoring import CompiledScorer
from index_data.segment.topk import NO_MASK
from index_data.segment.vectors import dense_of, dense_top, to_half


def warm_up() -> None:
    """Run every kernel once on arrays of the kinds that segments have: read-only ones."""
    postings = postings_of([["a", "b"], ["a"]])
    parts = saturation(postings, average_length(postings.lengths))
    vectors = to_half(np.eye(2, 8, dtype=np.float32))
    codes, scales = np.empty((2, 8), dtype=np.int8), np.empty((2, 2), dtype=np.float32)
    coarse_rows(vectors, codes, scales)
    for array in (postings.passages, parts, vectors, codes, scales):
        array.flags.writeable = False
    query = np.ones(8, dtype=np.float32)
    rows = np.arange(2, dtype=np.int64)
    scorer = CompiledScorer(postings, parts)
    scorer.top({"a": 1.0}, 2)
    scorer.of({"a": 1.0}, rows)
    dense_top(query, vectors, 2, NO_MASK)
    dense_of(query, vectors, rows)
    coarse_top(query, Coarse(codes, scales), vectors, 2, NO_MASK)
