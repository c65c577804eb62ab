"""The registry: what serves, what served before, and what cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from app.problems import Problem
from app.records.registry import NO_CHECKPOINT, POINTER, SHIPPED, Registry
from model.checkpoint import HeadFiles, save_checkpoint
from model.config import HeadConfig
from model.encoder.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> Encoder:
    return Encoder.load(str(encoder_folder))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "checkpoints", shipped=tmp_path / "shipped")


def save(folder: Path, encoder: Encoder) -> None:
    config = HeadConfig(field="label", labels=("a", "b"), encoder_sha256=encoder.sha256)
    save_checkpoint(folder, {"label": HeadFiles(config, {"w": torch.zeros(2)}, {})}, encoder)


def test_the_gates_decision_stays_beside_the_checkpoint_and_goes_with_it(
    registry: Registry, encoder: Encoder
) -> None:
    for version in ("a", "b"):
        save(registry.folder / version, encoder)
        assert registry.decision(version) is None
        registry.keep_decision(version, {"activate": version == "b", "margin": 0.01})
    again = Registry(registry.folder)
    assert again.decision("a") == {"activate": False, "margin": 0.01}
    assert {"a", "b"} <= {info.version for info in again.checkpoints() if info.problem is None}
    again.set_active("b")
    again.remove("a")
    assert again.decision("a") is None
    assert again.decision("b") == {"activate": True, "margin": 0.01}
    (registry.folder / "b.gate.json").write_text("torn {")
    assert again.decision("b") is None


def test_nothing_anywhere_is_no_checkpoint(registry: Registry) -> None:
    assert registry.choose().version == NO_CHECKPOINT
    assert registry.checkpoints() == []
    with pytest.raises(Problem) as refused:
        registry.previous()
    assert refused.value.slug == "job-conflict"


def test_the_shipped_one_serves_while_the_folder_holds_none(
    registry: Registry, tmp_path: Path, encoder: Encoder
) -> None:
    save(tmp_path / "shipped", encoder)
    assert registry.choose().version == SHIPPED
    assert registry.choose().folder == tmp_path / "shipped"
    save(registry.folder / "20260101-000000-label", encoder)
    assert registry.choose().version == "20260101-000000-label"


def test_a_checkpoint_that_is_only_added_does_not_serve(
    registry: Registry, tmp_path: Path, encoder: Encoder
) -> None:
    save(tmp_path / "shipped", encoder)
    registry.keep_active()
    save(registry.folder / "b", encoder)
    assert registry.choose().version == SHIPPED
    assert [info.version for info in registry.checkpoints()] == ["b", SHIPPED]


def test_activating_and_going_back(registry: Registry, encoder: Encoder) -> None:
    for version in ("a", "b", "c"):
        save(registry.folder / version, encoder)
        registry.set_active(version)
    assert registry.active == "c"
    assert registry.previous() == "b"
    registry.set_rolled_back()
    assert Registry(registry.folder).active == "b"
    assert [i.version for i in registry.checkpoints() if i.active] == ["b"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip", "extra"])
def test_what_does_not_verify_is_passed_over_and_named(
    registry: Registry, encoder: Encoder, damage: str
) -> None:
    for version in ("a", "b"):
        save(registry.folder / version, encoder)
        registry.set_active(version)
    manifest = registry.folder / "b" / "manifest.json"
    if damage == "truncate":
        manifest.write_bytes(manifest.read_bytes()[:40])
    elif damage == "remove":
        manifest.unlink()
    elif damage == "flip":
        manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 9'))
    else:
        (registry.folder / "b" / "bomb.pkl").write_bytes(b"cos\nsystem\n")
    choice = registry.choose()
    assert choice.version == "a"
    assert len(choice.problems) == 1
    assert "checkpoint b" in choice.problems[0]
    if damage != "remove":
        info = next(i for i in registry.checkpoints() if i.version == "b")
        assert info.problem
        with pytest.raises(Problem):
            registry.set_active("b")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 3, "before": []}', '{"version": "../x", "before": []}'],
)
def test_a_damaged_pointer_is_no_pointer(
    registry: Registry, encoder: Encoder, content: str
) -> None:
    save(registry.folder / "a", encoder)
    (registry.folder / POINTER).write_text(content)
    assert registry.choose().version == "a"


def test_a_version_is_no_path(registry: Registry) -> None:
    for version in ("../../etc", "/etc", ".hidden", "a/b", ""):
        with pytest.raises(Problem) as refused:
            registry.find(version)
        assert refused.value.status == 404


def test_a_pointer_is_replaced_whole(registry: Registry, encoder: Encoder) -> None:
    save(registry.folder / "a", encoder)
    registry.set_active("a")
    registry.set_active("a")
    body = json.loads((registry.folder / POINTER).read_text())
    assert body == {"version": "a", "before": []}
    assert [p.name for p in registry.folder.iterdir() if p.name.startswith(".")] == []


def test_new_versions_differ_and_are_safe_names(registry: Registry, encoder: Encoder) -> None:
    first = registry.new_version("a field/of 中文..")
    save(registry.folder / first, encoder)
    second = registry.new_version("a field/of 中文..")
    assert first != second
    assert "/" not in first
    assert registry.find(first) == registry.folder / first
