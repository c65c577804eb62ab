"""A checkpoint: a folder with a head per label field or task, as safetensors and JSON.

    manifest.json                    format, version, encoder, sha256 of every other file
    heads/<field>/model.safetensors  adapter, fusion, head, mixture, gate; no encoder weights
    heads/<field>/config.json        its task, labels and sizes (`model.heads` has the kinds)
    heads/<field>/report.json        what it was trained on and how well it does
    heads/<field>/documents.bin      digests of the ids of those documents, where they have any

It is written aside, synced and renamed: it is there whole or not at all. Reading verifies every
file against the manifest before anything is parsed, and never unpickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from model.config import HeadSettings
from model.encoder import Encoder
from model.heads import kind_of
from model.provenance import DOCUMENTS

FORMAT = 2  # 2: a gate of its own for labels that the head does not know
MANIFEST = "manifest.json"


class CheckpointRefused(RuntimeError):
    """A checkpoint that does not load; the message holds the two sides that do not fit."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says about itself. `sha256` is that of the manifest's own bytes."""

    version: str
    sha256: str
    encoder_name: str
    encoder_sha256: str
    created: str
    fields: tuple[str, ...]
    files: dict[str, str]


@dataclass(slots=True)
class HeadFiles:
    """One head in memory."""

    config: HeadSettings
    tensors: dict[str, Tensor]
    report: dict[str, Any]
    documents: bytes = b""  # `provenance.digests` of what it was trained on


def head_folder(field: str) -> str:
    """Where a field's head lies, relative to the checkpoint: any string makes a safe name."""
    return f"heads/{quote(field, safe='').replace('.', '%2E') or '%00'}"


def save_checkpoint(
    out: Path, heads: Mapping[str, HeadFiles], encoder: Encoder, *, base: Path | None = None
) -> Manifest:
    """Write a checkpoint; the heads of `base` that `heads` does not name are copied bit by bit.

    Raises:
        CheckpointRefused: `out` is there already, or `base` does not verify or belongs to another
            encoder.
        OSError: The disk; nothing is left at `out`.
    """
    if out.exists():
        raise CheckpointRefused(f"{out.name} is there already")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        fields = [*heads]
        if base is not None:
            fields += _copy_heads(base, aside, skip=set(heads), encoder=encoder)
        for field, head in heads.items():
            folder = aside / head_folder(field)
            folder.mkdir(parents=True)
            tensors = {name: t.detach().cpu().contiguous() for name, t in head.tensors.items()}
            _write(folder / "model.safetensors", save(tensors))
            _write(folder / "config.json", _json(head.config.to_json()))
            _write(folder / "report.json", _json(head.report))
            if head.documents:
                _write(folder / DOCUMENTS, head.documents)
        files = {
            str(path.relative_to(aside)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(aside.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "format": FORMAT,
            "version": out.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "encoder": {"name": encoder.name, "sha256": encoder.sha256, "dim": encoder.dim},
            "fields": sorted(fields),
            "files": files,
        }
        _write(aside / MANIFEST, _json(manifest))
        for folder in [path for path in aside.rglob("*") if path.is_dir()] + [aside]:
            _sync(folder)
        aside.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return verify(out)


def verify(folder: Path) -> Manifest:
    """Read the manifest and check every file against it.

    Raises:
        CheckpointRefused: Something is missing, added, changed or of another format.
    """
    with _refusing(folder):
        raw = (folder / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        if manifest["format"] != FORMAT:
            raise CheckpointRefused(
                f"{folder.name}: format {manifest['format']!r}, this version reads {FORMAT}"
            )
        files: dict[str, str] = dict(manifest["files"])
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
        if there != set(files):
            odd = sorted(there ^ set(files))[0]
            raise CheckpointRefused(
                f"{folder.name}: {len(files)} files in the manifest, {len(there)} there ({odd})"
            )
        for name, expected in files.items():
            actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if actual != expected:
                raise CheckpointRefused(
                    f"{folder.name}/{name}: sha256 {actual[:12]}, the manifest says {expected[:12]}"
                )
        return Manifest(
            version=str(manifest["version"]),
            sha256=hashlib.sha256(raw).hexdigest(),
            encoder_name=str(manifest["encoder"]["name"]),
            encoder_sha256=str(manifest["encoder"]["sha256"]),
            created=str(manifest["created"]),
            fields=tuple(str(field) for field in manifest["fields"]),
            files=files,
        )


def load_heads(folder: Path) -> tuple[Manifest, dict[str, HeadFiles]]:
    """Verify and read all heads.

    Raises:
        CheckpointRefused: See `verify`; or a head's file is not what its configuration says.
    """
    manifest = verify(folder)
    heads: dict[str, HeadFiles] = {}
    with _refusing(folder):
        for field in manifest.fields:
            place = folder / head_folder(field)
            raw = json.loads((place / "config.json").read_bytes())
            config = kind_of(raw["task"]).config(raw)
            if config.field != field:
                raise CheckpointRefused(
                    f"{folder.name}: head {field!r} is configured for {config.field!r}"
                )
            heads[field] = HeadFiles(
                config=config,
                tensors=load((place / "model.safetensors").read_bytes()),
                report=json.loads((place / "report.json").read_bytes()),
            )
    return manifest, heads


def build(head: HeadFiles, encoder: Encoder) -> nn.Module:
    """A network with a head's weights, over this encoder, in evaluation mode.

    Raises:
        CheckpointRefused: Trained over another encoder, or a tensor has another name or shape.
    """
    config = head.config
    if config.encoder_sha256 != encoder.sha256:
        raise CheckpointRefused(
            f"head {config.field!r} was trained over the encoder {config.encoder_sha256[:12]}, "
            f"loaded is {encoder.sha256[:12]} ({encoder.name})"
        )
    network = kind_of(config.task).network(config, encoder)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    actual = {name: tuple(value.shape) for name, value in head.tensors.items()}
    if expected != actual:
        odd = sorted(n for n in {*expected, *actual} if expected.get(n) != actual.get(n))[0]
        raise CheckpointRefused(
            f"head {config.field!r}: {odd} is {actual.get(odd)}, "
            f"the configuration says {expected.get(odd)}"
        )
    network.load_state_dict(head.tensors)
    return network.eval()


def _copy_heads(base: Path, aside: Path, *, skip: set[str], encoder: Encoder) -> list[str]:
    manifest = verify(base)
    kept = [field for field in manifest.fields if field not in skip]
    if kept and manifest.encoder_sha256 != encoder.sha256:
        raise CheckpointRefused(
            f"{base.name} belongs to the encoder {manifest.encoder_sha256[:12]}, "
            f"training used {encoder.sha256[:12]}"
        )
    for field in kept:
        target = aside / head_folder(field)
        target.mkdir(parents=True)
        for source in sorted((base / head_folder(field)).iterdir()):
            _write(target / source.name, source.read_bytes())
    return kept


def _json(value: object) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise CheckpointRefused(f"{folder.name} does not read: {kind}: {error}") from error
