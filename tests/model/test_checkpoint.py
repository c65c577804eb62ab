from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.checkpoint import HeadFiles, build, head_folder, load_heads, verify
from model.config import HeadConfig
from model.encoder.encoder import Encoder
from model.folders import CheckpointRefused
from model.labels.network import RetrievalAugmentedModel


def head(encoder: Encoder, field: str = "label", seed: int = 0) -> HeadFiles:
    torch.manual_seed(seed)
    config = HeadConfig(
        field=field,
        labels=("a", "b"),
        encoder_sha256=encoder.sha256,
        dim=encoder.dim,
        layers=2,
        rank=4,
    )
    return HeadFiles(config, dict(RetrievalAugmentedModel(config, encoder).state_dict()), {"x": 1})


@pytest.fixture
def saved(encoder: Encoder, tmp_path: Path) -> Path:
    checkpoint.save_checkpoint(tmp_path / "m", {"label": head(encoder)}, encoder)
    return tmp_path / "m"


def test_save_and_load_are_inverse(encoder: Encoder, saved: Path) -> None:
    manifest, heads = load_heads(saved)
    expected = head(encoder)
    assert manifest.version == "m"
    assert manifest.encoder_sha256 == encoder.sha256
    assert heads["label"].config == expected.config
    assert heads["label"].report == expected.report
    network = build(heads["label"], encoder)
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected.tensors[name])


def test_any_changed_byte_is_found(saved: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    files = sorted(p for p in saved.rglob("*") if p.is_file() and p.name != "manifest.json")
    for i in range(60):
        copy = tmp_path / f"copy-{i}"
        shutil.copytree(saved, copy)
        path = copy / rng.choice(files).relative_to(saved)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        with pytest.raises(CheckpointRefused, match="sha256"):
            verify(copy)
        shutil.rmtree(copy)


def test_damaged_manifests_are_refused(saved: Path) -> None:
    good = (saved / "manifest.json").read_bytes()
    for bad in (b"", good[:40], b"[]", b"null", b"\xff\xfe", b'{"format": 2}'):
        (saved / "manifest.json").write_bytes(bad)
        with pytest.raises(CheckpointRefused):
            verify(saved)
    raw = json.loads(good)
    raw["format"] = 99
    (saved / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointRefused, match=r"99.* 2"):
        verify(saved)


def test_files_too_many_or_too_few(saved: Path) -> None:
    (saved / "extra.bin").write_bytes(b"x")
    with pytest.raises(CheckpointRefused, match=r"extra\.bin"):
        verify(saved)
    (saved / "extra.bin").unlink()
    (saved / head_folder("label") / "config.json").unlink()
    with pytest.raises(CheckpointRefused, match=r"3 files in the manifest, 2 there"):
        verify(saved)
    with pytest.raises(CheckpointRefused):
        verify(saved.parent / "nothing")


def test_a_pickle_is_never_opened(saved: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = saved / head_folder("label") / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointRefused):
        load_heads(saved)
    manifest = json.loads((saved / "manifest.json").read_text())
    name = str(path.relative_to(saved))
    manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointRefused, match="does not read"):
        load_heads(saved)
    assert not (tmp_path / "exploded").exists()


def test_another_encoder_is_refused_with_both_hashes(
    saved: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    with pytest.raises(CheckpointRefused) as refused:
        build(load_heads(saved)[1]["label"], other_encoder)
    assert encoder.sha256[:12] in str(refused.value)
    assert other_encoder.sha256[:12] in str(refused.value)


def test_a_shape_that_does_not_fit_is_refused_with_both(encoder: Encoder) -> None:
    files = head(encoder)
    files.tensors["head.weight"] = torch.zeros(5, encoder.dim)
    with pytest.raises(CheckpointRefused, match=r"head\.weight is \(5, 32\).* \(2, 32\)"):
        build(files, encoder)


@pytest.mark.parametrize("call", range(12))
def test_a_save_that_fails_leaves_nothing(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Death (here: an error) before every storage call: the old state or the new one."""
    left = call

    def failing(descriptor: int, real: object = os.fsync) -> None:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        left -= 1
        os.fdatasync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    out = tmp_path / "m"
    with contextlib.suppress(OSError):
        checkpoint.save_checkpoint(out, {"label": head(encoder)}, encoder)
    if out.exists():
        assert verify(out).fields == ("label",)
    assert [p for p in tmp_path.iterdir() if p != out] == []


def test_field_names_make_safe_folders() -> None:
    names = ["label", "..", "a/b", "", "情感", "%2E", "A" * 50]
    folders = [head_folder(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(".." not in folder and folder.count("/") == 1 for folder in folders)
