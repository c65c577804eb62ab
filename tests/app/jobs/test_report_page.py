"""The report as a page: well-formed, escaped, whole for old reports and for strange ones."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from starlette.testclient import TestClient

from app.manage.report_charts import MATRIX, matrix, shown_labels
from app.manage.report_page import page
from app.records.registry import Registry
from app.schemas.admin import ModelReport
from app.settings import Settings
from app.web.html import render
from model.checkpoint import HeadFiles, save_checkpoint
from model.config import HeadConfig
from model.encoder.encoder import Encoder
from tests.app.conftest import serving

EVIL = "<script>alert('x')</script>\"&\x00\ud800"
LABELS = [EVIL, "delivery"]
HEAD: dict[str, Any] = {
    "task": "classification",
    "labels": LABELS,
    "rows": 40,
    "held_out": 10,
    "evaluated_on": "held-out",
    "metrics": {
        "on": {"accuracy": 0.9, "macro_f1": 0.875, "rows": 10.0},
        "neighbours": {"accuracy": 0.5, "macro_f1": 0.25, "rows": 10.0},
    },
    "calibration": {"ece_after": 0.0312},
    "warnings": [EVIL],
    "curve": [{"step": 0, "loss": 2.0}, {"step": 9, "train_loss": 1.0, "held_out_loss": 1.25}],
    "diagnosis": {
        "by_label": {"on": {EVIL: 0.75, "delivery": 1.0}, "neighbours": {"delivery": 0.5}},
        "support": {EVIL: 4, "delivery": 6},
        "confusion": [["delivery", "delivery", 6], [EVIL, EVIL, 3], [EVIL, "delivery", 1]],
        "reliability": [
            {"low": 0.9, "high": 1.0, "rows": 10.0, "confidence": 0.93, "accuracy": 0.9}
        ],
        "worst": [
            {
                "id": "kept",
                "truth": EVIL,
                "said": "delivery",
                "confidence": 0.97,
                "citations": [{"doc_id": "gone", "label": EVIL, "weight": 0.4}],
            }
        ],
    },
}
GATE: dict[str, Any] = {
    "activate": True,
    "reason": f"Better: {EVIL}",
    "difference": 0.4,
    "lower_90": 0.2,
}
GATE["feedback"] = {"rows": 31, "better": 5, "worse": 2}


def text_of(name: str) -> str | None:
    return f"the text of a mistake {EVIL}" if name == "kept" else None


def gone(name: str) -> None:
    return None


def report(head: dict[str, Any], gate: dict[str, Any] | None = None) -> ModelReport:
    return ModelReport(
        version="v1", active=True, created="today", heads={EVIL: head}, gate=gate, job_id=None
    )


def parsed(text: str) -> ElementTree.Element:
    assert "\x00" not in text
    return ElementTree.fromstring(text.encode("utf-8"))


def test_the_page_is_well_formed_and_holds_nothing_of_elsewhere() -> None:
    shown = page(report(HEAD, GATE), text_of)
    root = parsed(shown)
    tags = {element.tag for element in root.iter()}
    assert {"svg", "table", "blockquote"} <= tags
    assert not tags & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert not re.search(r"\s(?:src|href|on\w+)=|url\(|@import|https?:", shown)
    text = " ".join("".join(root.itertext()).split())
    assert text.count("<script>alert") > 8
    assert "the text of a mistake" in text
    assert "not in the store any more" in text
    for figure in ("0.9000", "0.8750", "0.4000", "0.2000", "0.9700", "0.0312"):
        assert figure in text
    assert "To go live" in text
    assert "31 (+5, -2)" in text
    cells = [e.text for e in root.iter("title") if " of " in (e.text or "")]
    assert "delivery answered as delivery: 6 of 6" in cells
    assert "Not to go live" in page(report(HEAD, {**GATE, "activate": False}), gone)


def test_reports_of_before_and_of_other_tasks_are_shown_as_far_as_they_go() -> None:
    old = {k: v for k, v in HEAD.items() if k != "diagnosis"} | {"by_label": {"delivery": 0.4321}}
    shown = page(report(old), gone)
    parsed(shown)
    assert "0.4321" in shown
    assert "no decision is kept" in shown
    answering = {"task": "qa", "metrics": {"given": {"exact_match": 46.04, "rows": 300.0}}}
    shown = page(report(answering), gone)
    parsed(shown)
    assert ">46.04<" in shown
    assert ">300<" in shown


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("metrics", "on"), "good"),
        (("curve",), 7),
        (("calibration",), [1]),
        (("diagnosis", "by_label"), {"on": {"x": "high"}}),
        (("diagnosis", "confusion"), [["a"]]),
        (("diagnosis", "reliability"), [{"low": 0.9}]),
        (("diagnosis", "worst"), [{"id": 3}]),
    ],
)
def test_a_strange_report_loses_that_part_only(place: tuple[str, ...], value: Any) -> None:
    head = copy.deepcopy(HEAD)
    inner = head
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    shown = page(report(head), gone)
    parsed(shown)
    assert shown.count("cannot be read") == 1


def test_a_matrix_of_many_labels_keeps_those_with_most_mistakes() -> None:
    pairs = [(f"l{i:03}", f"l{(i + 1) % 100:03}", i + 1) for i in range(100)]
    labels, known = shown_labels(pairs)
    assert (len(labels), known) == (MATRIX, 100)
    assert labels == sorted(labels)
    assert {"l099", "l098"} <= set(labels)
    assert "l030" not in labels
    drawn = ElementTree.fromstring(render("report/matrix.svg", matrix=matrix(pairs, labels)))
    assert len(drawn.findall(".//title")) == MATRIX - 1  # the pairs between those labels


def test_over_http_as_page_and_as_json(
    tmp_path: Path, settings_for: Callable[..., Settings], encoder: Encoder
) -> None:
    import torch

    settings = settings_for(tmp_path)
    config = HeadConfig(field="label", labels=("a", "b"), encoder_sha256=encoder.sha256)
    plain = json.loads(json.dumps(HEAD).replace("\\u0000\\ud800", ""))
    files = HeadFiles(config, {"w": torch.zeros(2)}, plain)
    save_checkpoint(settings.checkpoint_dir / "v1", {"label": files}, encoder)
    registry = Registry(settings.checkpoint_dir)
    registry.keep_decision("v1", {**GATE, "reason": "Surely better.", "job_id": "job_1"})
    with serving(settings) as client:
        row = {"id": "kept", "text": "my parcel <b>is late</b>"}
        assert client.post("/documents", json=row).is_success
        path = "/admin/models/v1/report"
        for asked in (
            client.get(path, params={"format": "html"}),
            client.get(path, headers={"accept": "text/html,*/*;q=0.8"}),
        ):
            assert asked.status_code == 200
            assert asked.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in asked.headers["content-security-policy"]
            assert asked.headers["cache-control"] == "no-store"
            assert "my parcel &lt;b&gt;is late" in asked.text
            assert "Surely better." in asked.text
        check_json(client, path)
        assert client.delete("/admin/models/v1").status_code == 200
        deleted = client.get(path, params={"format": "html"})
        assert deleted.status_code == 404
        assert deleted.headers["content-type"] == "application/problem+json"
        assert not (settings.checkpoint_dir / "v1.gate.json").exists()


def check_json(client: TestClient, path: str) -> None:
    headers = {"accept": "text/html"}
    for given in ({}, {"params": {"format": "json"}, "headers": headers}):
        asked = client.get(path, **given)  # type: ignore[arg-type]
        assert asked.json()["gate"]["reason"] == "Surely better."
        assert asked.json()["job_id"] == "job_1"
    refused = client.get(path, params={"format": "pdf"})
    assert refused.status_code == 422
    assert "format" in refused.json()["errors"][0]["pointer"]
