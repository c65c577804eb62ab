from __future__ import annotations

import math

import pytest
import torch

from model.labels.gate import Gate
from model.labels.memory import Memory
from model.metrics import calibration_error
from model.optimise import minimise
from model.training.calibration import Evidence, choose_k, fit_gate, join, take_labels_away


def evidence(n: int = 300, *, labels: int = 4, k: int = 5, good: float = 0.9) -> Evidence:
    """An overconfident head that is right in 60 %, neighbours that are right in `good`."""
    g = torch.Generator().manual_seed(3)
    truth = torch.randint(labels, (n,), generator=g)
    wrong = (truth + 1) % labels
    said = torch.where(torch.rand(n, generator=g) < 0.6, truth, wrong)
    logits = torch.nn.functional.one_hot(said, labels).float() * 8
    near = torch.where(torch.rand(n, k, generator=g) < good, truth[:, None], wrong[:, None])
    vectors = torch.nn.functional.normalize(torch.randn(n, k, 16, generator=g), dim=-1)
    mask = torch.ones(n, k, dtype=torch.bool)
    memory = Memory(vectors, near, torch.ones(n, k), mask, mask)
    match = torch.full((n, k), 0.6)
    return Evidence(logits, match, match, memory, truth, torch.tensor([[4.0, 0.3]]).expand(n, 2))


def test_good_neighbours_open_the_gate_and_bad_ones_close_it() -> None:
    gates: list[float] = []
    for good in (0.95, 0.3):
        rows, gate = evidence(good=good), Gate()
        fit_gate(gate, rows)
        gates.append(float(gate(rows.logits, rows.neighbours(4)).gate.detach().mean()))
    assert gates[0] > gates[1] + 0.3


def test_the_fit_calibrates() -> None:
    rows, gate = evidence(), Gate()
    fit_gate(gate, rows)
    probs = gate(rows.logits, rows.neighbours(4)).probs.detach()
    right = (probs.argmax(-1) == rows.truth).tolist()
    raw = rows.logits.softmax(-1)
    before = calibration_error(raw.amax(-1).tolist(), (raw.argmax(-1) == rows.truth).tolist())
    assert calibration_error(probs.amax(-1).tolist(), right) < before / 2
    assert sum(right) / len(right) > 0.9


def test_a_label_taken_away_is_left_to_the_hits() -> None:
    rows = evidence()
    copy = take_labels_away(rows, torch.Generator().manual_seed(0), 0.5)
    gone = (copy.logits <= -29).all(0)
    assert 0 < int(gone.sum()) < 4
    moved = copy.truth >= 4
    assert torch.equal(moved, gone[rows.truth])
    assert torch.equal(copy.truth % 4, rows.truth)
    there = copy.memory.mask
    assert torch.equal(copy.memory.labels[there] % 4, rows.memory.labels[there])
    assert bool(there[~gone[rows.memory.labels]].all())
    assert 0.3 < float(there[gone[rows.memory.labels]].float().mean()) < 0.7


def test_new_labels_are_believed_and_cost_known_ones_little() -> None:
    """Fitted where hits that match say the truth: a label that the head never saw is answered."""
    rows, gate = evidence(n=600, good=0.95), Gate()
    near = rows.memory.labels == rows.truth[:, None]
    match = torch.where(near, 0.9, 0.4)
    rows = Evidence(rows.logits, match, match, rows.memory, rows.truth, rows.kernel)
    fit_gate(gate, rows)
    copy = take_labels_away(rows, torch.Generator().manual_seed(9), 0.5)
    with torch.no_grad():
        said = gate(copy.logits, copy.neighbours(8)).probs.argmax(-1)
        before = gate(rows.logits, rows.neighbours(4)).probs.argmax(-1)
    new = copy.truth >= 4
    seen = (copy.memory.labels == copy.truth[:, None]).any(-1)
    assert float((said == copy.truth)[new & seen].float().mean()) > 0.8
    lost = (before == rows.truth) & (said != copy.truth) & ~new
    assert float(lost.float().mean()) < 0.05


def test_joining_keeps_rows_in_order() -> None:
    rows = evidence(20)
    narrow = rows.first(2)
    both = join([rows, narrow])
    assert both.match.shape == (40, 5)
    assert torch.equal(both.truth[20:], rows.truth)
    assert not both.memory.mask[20:, 2:].any()
    assert torch.allclose(both.neighbours(4).probs[20:], narrow.neighbours(4).probs, atol=1e-5)


@pytest.mark.parametrize("limit", [1, 5])
def test_k_stays_within_what_came_along(limit: int) -> None:
    assert 1 <= choose_k(Gate(), evidence(60), limit=limit) <= limit


@pytest.mark.parametrize("slope", [math.nan, 1e-3])
def test_what_has_no_least_is_left_as_it_was(slope: float) -> None:
    """A loss that is no number, and one that falls for ever."""
    parameter = torch.nn.Parameter(torch.ones(3))
    minimise([parameter], lambda: -slope * parameter.sum())
    assert parameter.tolist() == [1.0] * 3


def test_a_least_is_found() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    minimise([parameter], lambda: (parameter - 3.0).square().sum())
    assert parameter.tolist() == pytest.approx([3.0] * 2, abs=1e-3)


def test_a_head_that_training_broke_is_refused() -> None:
    rows = evidence()
    rows.logits.fill_(math.nan)
    with pytest.raises(ArithmeticError, match="lower lr"):
        choose_k(Gate(), rows, limit=5)
