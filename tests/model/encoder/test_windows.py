"""Long texts: windows cover what they should, and reading them is reading each by itself."""

from __future__ import annotations

import pytest
import torch

from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder
from model.encoder.windows import join_windows, split_windows, spread
from model.labels.network import RetrievalAugmentedModel
from model.training.label_examples import adapted, make_batch, prepare

LONG = " ".join(f"apple {i} hammer" for i in range(40))


@pytest.mark.parametrize(
    ("count", "most", "read"),
    [(3, 4, [0, 1, 2]), (9, 4, [0, 3, 5, 8]), (5, 1, [0]), (5, 2, [0, 4])],
)
def test_the_first_and_the_last_are_always_read(count: int, most: int, read: list[int]) -> None:
    assert spread(count, most) == read


def test_windows_begin_where_the_list_says(encoder: Encoder) -> None:
    ids = encoder.tokenize([LONG, "apple"], max_tokens=16, windows=100)
    one = encoder.tokenize([LONG, "apple"], max_tokens=16)
    parts = split_windows(ids, 16)
    assert [parts[0][0], parts[1][0]] == one
    start, end = one[0][0], one[0][-1]
    assert len(parts[0]) > 3
    assert all(window[0] == start and window[-1] == end for row in parts for window in row)
    wide = split_windows(encoder.tokenize([LONG], max_tokens=40, windows=100), 40)[0]
    assert [i for w in parts[0] for i in w[1:-1]] == [i for w in wide for i in w[1:-1]]
    few = split_windows(encoder.tokenize([LONG], max_tokens=16, windows=3), 16)[0]
    assert few[0] == parts[0][0]
    assert few[-1] == parts[0][-1]
    assert len(few) == 3


def test_joining_is_laying_end_to_end() -> None:
    h = torch.randn(4, 3, 2)
    lengths = torch.tensor([3, 2, 1, 3])
    mask = torch.arange(3)[None, :] < lengths[:, None]
    whole, seen = join_windows(h, mask, [2, 1, 1])
    assert seen.sum(1).tolist() == [5, 1, 3]
    torch.testing.assert_close(whole[0, :5], torch.cat([h[0], h[1, :2]]))
    torch.testing.assert_close(whole[1, :1], h[2, :1])
    torch.testing.assert_close(whole[2, :3], h[3])
    assert not whole[1, 1:].any()


@pytest.mark.parametrize("cached", [True, False])
def test_a_long_row_is_read_window_by_window(
    encoder: Encoder, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cached:
        monkeypatch.setattr("model.training.label_examples.CACHE_BYTES", 0)
    config = TrainConfig(max_tokens=16, windows=4, layers=1)
    head = HeadConfig(
        field="label", labels=("a", "b"), encoder_sha256=encoder.sha256, dim=encoder.dim, layers=1
    )
    torch.manual_seed(0)
    model = RetrievalAugmentedModel(head, encoder).eval()
    data = prepare(encoder, [LONG, "a plum"], [0, 1], [[], []], config)
    assert (data.lower is not None) is cached
    with torch.no_grad():
        h, mask = adapted(model, make_batch(model, data, [1, 0]))
        for at, i in enumerate([1, 0]):
            windows = split_windows([data.token_ids[i]], 16)[0]
            alone = []
            for window in windows:
                ids, seen = encoder.pad([window])
                states = model.adapted(encoder.lower(ids, seen, 1), seen)
                alone.append(states[0, : len(window)])
            expected = torch.cat(alone)
            assert int(mask[at].sum()) == len(expected)
            torch.testing.assert_close(h[at, : len(expected)], expected, atol=5e-3, rtol=0)
