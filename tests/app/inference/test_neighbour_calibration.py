"""A field without a head gets a confidence that holds, once there is enough to fit it on."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.inference.calibration import ENOUGH, Calibration, apply, fit, fit_threshold, tempered
from index_data.documents import Document
from model.labels.prediction import Prediction
from tests.app.conftest import serving, state
from tests.app.predict.test_multilabel import FIELD, listed
from tests.app.tiny import documents


def test_the_fit_finds_what_votes_are_worth() -> None:
    """Votes that claim 0.95 and are right in 6 of 10 are told as about 0.6."""
    rng = np.random.default_rng(0)
    said = rng.integers(0, 3, 600)
    right = rng.random(600) < 0.6
    truth = np.where(right, said, (said + 1 + rng.integers(0, 2, 600)) % 3)
    probs = np.full((600, 3), 0.025, np.float32)
    probs[np.arange(600), said] = 0.95
    found = fit(probs, truth)
    assert found.rows == 600
    assert apply(found, probs).max(-1).mean() == pytest.approx(0.6, abs=0.04)


def test_a_label_without_a_vote_is_not_impossible() -> None:
    probs = np.tile(np.array([1.0, 0.0], np.float32), (100, 1))
    truth = np.zeros(100, np.int64)
    truth[:20] = 1
    found = fit(probs, truth)
    assert apply(found, probs)[0] == pytest.approx([0.8, 0.2], abs=0.05)
    assert apply(Calibration(1.0, 0.1, 1), probs).sum(-1) == pytest.approx(np.ones(100), abs=1e-6)


def confidence(client: TestClient, text: str) -> Any:
    answer = client.post("/classify", json={"input": text, "explain": ["influence"]})
    return answer.json()["data"][0]


def test_calibrated_once_there_is_enough(tmp_path: Path, settings_for: Any) -> None:
    found = documents(20)
    text = "tell hammer about drill and violin"
    with serving(settings_for(tmp_path)) as client:
        few = [d.to_json() for d in found[::2]]
        client.post("/documents", json={"documents": few})
        assert len(few) < ENOUGH
        before = confidence(client, text)
        assert not before["calibrated"]
        footnote = state(client)
        deadline = time.monotonic() + 30
        while not footnote.calibrations._known and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not confidence(client, text)["calibrated"]

        # So many as lacked suffice; it is not waited for as many again.
        more = [d.to_json() for d in found[1::2]][: ENOUGH - len(few)]
        client.post("/documents", json={"documents": more})
        while not (after := confidence(client, text))["calibrated"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        assert 0 < after["confidence"] < 1
        probs = client.post("/classify", json={"input": text}).json()["data"][0]["probs"]
        assert sum(probs) == pytest.approx(1, abs=1e-5)
        assert max(probs) == pytest.approx(after["confidence"], abs=1e-6)

        assert len(footnote.calibrations._known) == 1


def test_the_threshold_is_where_the_labels_part() -> None:
    truth = np.zeros((60, 3), np.float32)
    truth[np.arange(60), np.arange(60) % 3] = 1
    truth[::2, 0] = 1
    shares = np.where(truth > 0, 0.3, 0.1).astype(np.float32)
    found = fit_threshold(shares, truth)
    assert found.threshold == pytest.approx(0.2)
    assert found.rows == 60


def test_a_threshold_is_for_lists_alone() -> None:
    found = Calibration(1.0, 0.0, 60, 0.2)
    told = Prediction(
        "a", ["a", "b"], np.array([0.6, 0.3], np.float32), 0.6, False, 0.5, [], 1.0, False
    )
    assert tempered(told, found) is told
    multilabel = Prediction(
        "a", ["a", "b"], np.array([0.6, 0.3], np.float32), 0.6, False, 0.5, [], 1.0, False, True
    )
    assert multilabel.answered == ["a"]
    assert tempered(multilabel, found).answered == ["a", "b"]
    assert not tempered(multilabel, found).calibrated
    assert tempered(multilabel, Calibration(1.0, 0.1, 60)) is multilabel


def sweetened() -> list[Document]:
    """Documents with lists of labels; three of five on fruit are also said to be sweet."""
    found = []
    for i, document in enumerate(listed()):
        names = [*document.labels[FIELD]]
        sweet = ["sweet"] if "fruit" in names and i % 5 < 3 else []
        found.append(replace(document, labels={FIELD: [*names, *sweet]}))
    return found


def test_lists_are_answered_from_a_fitted_threshold_on(tmp_path: Path, settings_for: Any) -> None:
    texts = [d.text for d in listed(4)]
    asked = {"input": texts, "field": FIELD}
    with serving(settings_for(tmp_path)) as client:
        documents = [d.to_json() for d in sweetened()]
        assert client.post("/documents", json={"documents": documents}).status_code == 200
        client.post("/classify", json=asked)
        footnote = state(client)
        deadline = time.monotonic() + 30
        while not footnote.calibrations._known:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (fitted,) = footnote.calibrations._known.values()
        assert fitted.calibration is not None
        assert fitted.calibration.rows == len(documents)
        threshold = fitted.calibration.threshold
        assert threshold is not None
        # More than half of the doubtful labels are right, so it pays to give them.
        assert 0 < threshold < 0.5

        answers = client.post("/classify", json=asked).json()["data"]
        over, half = (
            [{s["label"] for s in a["scores"] if s["score"] >= least} for a in answers]
            for least in (threshold, 0.5)
        )
        assert [set(a["labels"]) for a in answers] == over
        assert over != half
