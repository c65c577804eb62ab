"""A checkpoint: a folder with a head per label field or task, as safetensors and JSON.

    manifest.json                    format, version, encoder, sha256 of every other file
    heads/<field>/model.safetensors  adapter, fusion, head, mixture, gate; no encoder weights
    heads/<field>/config.json        its task, labels and sizes (see `KINDS`)
    heads/<field>/report.json        what it was trained on and how well it does
    heads/<field>/documents.bin      digests of the ids of those documents, where they have any

It is there whole or not at all, and verified before anything is parsed (`model.folders`); nothing
is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from safetensors.torch import load, save
from torch import Tensor, nn

from model.config import HeadConfig, HeadSettings
from model.encoder.encoder import Encoder
from model.folders import (
    CheckpointRefused,
    check_files,
    read_manifest,
    refusing,
    to_bytes,
    write_file,
    write_manifest,
    written_whole,
)
from model.labels.network import RetrievalAugmentedModel
from model.ner.network import TagConfig, TagNetwork
from model.provenance import DOCUMENTS, listed
from model.qa.network import SpanConfig, SpanNetwork

FORMAT = 2  # 2: a gate of its own for labels that the head does not know


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: `config` from plain data, `network` from a configuration over an encoder."""

    config: Callable[[Mapping[str, Any]], HeadSettings]
    network: Callable[[Any, Encoder], nn.Module]


LABELS: Final = Kind(HeadConfig.from_json, RetrievalAugmentedModel)
SPANS: Final = Kind(SpanConfig.from_json, SpanNetwork)
TAGS: Final = Kind(TagConfig.from_json, TagNetwork)
KINDS: Final[Mapping[str, Kind]] = {
    "classification": LABELS,
    "sentiment": LABELS,
    "qa": SPANS,
    "ner": TAGS,
}


def kind_of(task: object) -> Kind:
    """The kind of a task's heads.

    Raises:
        ValueError: This version has no such task.
    """
    try:
        return KINDS[str(task)]
    except KeyError:
        known = ", ".join(KINDS)
        raise ValueError(f"a head for the task {task!r}; this version reads: {known}") from None


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
    with written_whole(out) as aside:
        fields = [*heads]
        if base is not None:
            fields += _copy_heads(base, aside, skip=set(heads), encoder=encoder)
        for field, head in heads.items():
            folder = aside / head_folder(field)
            folder.mkdir(parents=True)
            tensors = {name: t.detach().cpu().contiguous() for name, t in head.tensors.items()}
            write_file(folder / "model.safetensors", save(tensors))
            write_file(folder / "config.json", to_bytes(head.config.to_json()))
            write_file(folder / "report.json", to_bytes(head.report))
            if head.documents:
                write_file(folder / DOCUMENTS, head.documents)
        about = {
            "format": FORMAT,
            "encoder": {"name": encoder.name, "sha256": encoder.sha256, "dim": encoder.dim},
            "fields": sorted(fields),
        }
        write_manifest(aside, out.name, about)
    return verify(out)


def verify(folder: Path) -> Manifest:
    """Read the manifest and check every file against it.

    Raises:
        CheckpointRefused: Something is missing, added, changed or of another format.
    """
    with refusing(folder):
        manifest, digest = read_manifest(folder)
        if manifest["format"] != FORMAT:
            raise CheckpointRefused(
                f"{folder.name}: format {manifest['format']!r}, this version reads {FORMAT}"
            )
        files: dict[str, str] = dict(manifest["files"])
        check_files(folder, files)
        return Manifest(
            version=str(manifest["version"]),
            sha256=digest,
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
    with refusing(folder):
        for field in manifest.fields:
            part = folder / head_folder(field)
            raw = json.loads((part / "config.json").read_bytes())
            config = kind_of(raw["task"]).config(raw)
            if config.field != field:
                raise CheckpointRefused(
                    f"{folder.name}: head {field!r} is configured for {config.field!r}"
                )
            heads[field] = HeadFiles(
                config=config,
                tensors=load((part / "model.safetensors").read_bytes()),
                report=json.loads((part / "report.json").read_bytes()),
                documents=listed(part) or b"",
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
    copied = [field for field in manifest.fields if field not in skip]
    if copied and manifest.encoder_sha256 != encoder.sha256:
        raise CheckpointRefused(
            f"{base.name} belongs to the encoder {manifest.encoder_sha256[:12]}, "
            f"training used {encoder.sha256[:12]}"
        )
    for field in copied:
        target = aside / head_folder(field)
        target.mkdir(parents=True)
        for source in sorted((base / head_folder(field)).iterdir()):
            write_file(target / source.name, source.read_bytes())
    return copied
