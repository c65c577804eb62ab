"""The folder in which a training keeps its state, and what says that it is the same training."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.encoder.encoder import Encoder


class TrainingRefused(ValueError):
    """There is nothing to learn from; the message says what is missing."""


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
