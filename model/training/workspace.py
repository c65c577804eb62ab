"""What the training of every head shares: its folder, its report, and the checkpoint it ends in."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from model.checkpoint import HeadFiles, build, load_heads, save_checkpoint
from model.config import HeadSettings
from model.encoder.encoder import Encoder
from model.training.curves import read_curve

TOO_FEW = "too few rows to hold any out: figures are those of training rows"
Network = TypeVar("Network", bound=nn.Module)


class TrainingRefused(ValueError):
    """There is nothing to learn from; the message says what is missing."""


@dataclass(slots=True)
class HeadReport:
    """What a run did: the part that the reports of all tasks have.

    `metrics` and `diagnosis` (at least `paired`, the new head against each rival on the same rows)
    are by view. `evaluated_on`: the rows that figures are of.
    """

    field: str
    task: str
    rows: int
    trained_on: int
    held_out: int
    evaluated_on: str
    metrics: dict[str, dict[str, float]]
    calibration: dict[str, float]
    diagnosis: dict[str, Any]
    k: int
    config: dict[str, Any]
    epochs: int
    tokens_per_second: float
    seconds: float
    encoder_sha256: str
    data_sha256: str
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def fingerprint(config: dict[str, Any], encoder: Encoder, rows: Iterable[object]) -> str:
    """SHA-256 of what a run is: its settings, its encoder, and plain data of all its rows."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update(encoder.sha256.encode())
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def open_workspace(out: Path, digest: str) -> Path:
    """The folder beside `out` with the state of a run on the same data with the same settings.

    That of any other run is dropped.
    """
    work = out.with_name(f".{out.name}.training")
    mark = work / "run.sha256"
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        mark.write_text(digest)
    return work


def publish(
    out: Path,
    head: HeadSettings,
    model: nn.Module,
    report: HeadReport,
    encoder: Encoder,
    *,
    base: Path | None,
    work: Path,
    documents: bytes = b"",
) -> None:
    """Write the checkpoint with the other heads of `base`, and drop the workspace."""
    files = HeadFiles(head, dict(model.state_dict()), report.to_json(), documents)
    files.report["curve"] = thin(read_curve(work / "main"))
    save_checkpoint(out, {report.field: files}, encoder, base=base)
    shutil.rmtree(work, ignore_errors=True)


def previous_head(
    base: Path | None, field: str, encoder: Encoder, kind: type[Network]
) -> Network | None:
    """The head of this name in the base checkpoint, to compare with; None: there is none."""
    files = load_heads(base)[1].get(field) if base is not None else None
    network = build(files, encoder) if files is not None else None
    if not isinstance(network, kind):
        return None
    return network.requires_grad_(False).to(encoder.device)


def thin(points: list[dict[str, Any]], most: int = 400) -> list[dict[str, Any]]:
    """At most so many points of a curve; those with a held-out figure stay."""
    every = -(-len(points) // most) if points else 1
    return [
        p
        for i, p in enumerate(points)
        if i % every == 0 or any(name.startswith("held_out") for name in p)
    ]
