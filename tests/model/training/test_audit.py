from __future__ import annotations

import numpy as np
import pytest

from model.metrics import auroc
from model.training import audit as audits
from model.training.audit import audit, deal, judge


def clouds(seed: int = 0, each: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Four clouds of directions, one a label."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(4, 16))
    labels = np.repeat(np.arange(4), each)
    vectors = middles[labels] + 0.6 * rng.normal(size=(len(labels), 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), labels


def test_flipped_labels_come_first_with_the_right_suggestion() -> None:
    vectors, truth = clouds()
    labels = truth.copy()
    flipped = np.random.default_rng(1).choice(len(labels), 12, replace=False)
    labels[flipped] = (labels[flipped] + 1) % 4
    found = audit(vectors, labels, range(len(labels)), folds=4)
    wrong = np.isin(np.arange(len(labels)), flipped)
    assert auroc(found.score[wrong].tolist(), found.score[~wrong].tolist()) > 0.98
    assert (found.suggested[flipped] == truth[flipped]).mean() > 0.9
    assert (found.suggested != labels).all()
    assert np.allclose(found.head.sum(1), 1, atol=1e-4)
    assert not (found.nearest == np.arange(len(labels))[:, None]).any()


def test_a_copy_does_not_confirm_itself() -> None:
    vectors, labels = clouds(each=20)
    labels[0] = 1
    twins = 8  # as many copies of the same mistake as could outvote the cloud around it
    vectors = np.concatenate([vectors, np.repeat(vectors[:1], twins, 0)])
    labels = np.concatenate([labels, np.ones(twins, dtype=np.int64)])
    alone = list(range(80)) + list(range(100, 100 + twins))
    together = list(range(80)) + [0] * twins
    assert audit(vectors, labels, together).score[0] > 0.5
    assert audit(vectors, labels, alone).score[0] < 0.5
    fold = deal(labels, together, 5, 0)
    assert len(set(fold[[0, *range(80, 80 + twins)]])) == 1


def test_labels_are_spread_over_the_folds() -> None:
    _, labels = clouds(each=25)
    fold = deal(labels, range(100), 5, 3)
    for label in range(4):
        assert np.bincount(fold[labels == label]).tolist() == [5] * 5


def test_the_score_is_half_where_both_labels_are_as_likely() -> None:
    even = np.full((1, 2), 0.5, dtype=np.float32)
    score, suggested = judge(even, even, np.array([1]))
    assert score[0] == pytest.approx(0.5)
    assert suggested[0] == 0


def test_it_can_be_stopped_and_takes_very_small_sets() -> None:
    vectors, labels = clouds(each=2)
    found = audit(vectors, labels, range(8), folds=2)
    assert found.nearest.shape[1] == 7

    def stop(step: int, total: int, stage: str) -> None:
        assert step <= total
        raise InterruptedError(stage)

    with pytest.raises(InterruptedError):
        audits.audit(vectors, labels, range(8), folds=2, tick=stop)
