"""A language model's checkpoint: a folder that holds all that is needed to go on writing text.

    manifest.json       format, version, sha256 of every other file
    model.safetensors   weights
    config.json         its shape (`model.lm_config`)
    tokenizer.json      its tokens
    report.json         what it was trained on, and how well it does

Written aside, synced and renamed like the heads' (`model.checkpoint`); reading verifies every file
before anything is parsed, and never unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from model.checkpoint import MANIFEST, CheckpointRefused, _json, _sync, _write
from model.lm import RetrievalLM
from model.lm_config import LMConfig
from model.lm_tokenizer import LMTokenizer

FORMAT = 1
FILES = ("config.json", "model.safetensors", "report.json", "tokenizer.json")


def save_lm(out: Path, model: RetrievalLM, tokenizer: LMTokenizer, report: dict[str, Any]) -> str:
    """Write a checkpoint; its manifest's sha256.

    Raises:
        CheckpointRefused: `out` is there already.
        OSError: The disk; nothing is left at `out`.
    """
    if out.exists():
        raise CheckpointRefused(f"{out.name} is there already")
    aside = out.with_name(f".{out.name}.{os.getpid()}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    parts = {
        "model.safetensors": save(tensors),
        "config.json": _json(model.config.to_json()),
        "tokenizer.json": tokenizer.to_json().encode(),
        "report.json": _json(report),
    }
    manifest = _json(
        {
            "format": FORMAT,
            "kind": "language model",
            "version": out.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        }
    )
    try:
        for name, data in {**parts, MANIFEST: manifest}.items():
            _write(aside / name, data)
        _sync(aside)
        aside.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return hashlib.sha256(manifest).hexdigest()


def load_lm(folder: Path) -> tuple[RetrievalLM, LMTokenizer, dict[str, Any]]:
    """Verify and read a checkpoint: the network in evaluation mode, its tokenizer, its report.

    Raises:
        CheckpointRefused: Something is missing, changed or of another format, or does not fit.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT or manifest.get("kind") != "language model":
            raise CheckpointRefused(f"{folder.name} holds no language model of format {FORMAT}")
        parts = {name: (folder / name).read_bytes() for name in FILES}
        for name, data in parts.items():
            actual, expected = hashlib.sha256(data).hexdigest(), str(manifest["files"][name])
            if actual != expected:
                raise CheckpointRefused(
                    f"{folder.name}/{name}: sha256 {actual[:12]}, the manifest says {expected[:12]}"
                )
        model = RetrievalLM(LMConfig.from_json(json.loads(parts["config.json"])))
        tokenizer = LMTokenizer.from_json(parts["tokenizer.json"].decode())
        if tokenizer.vocab > model.config.vocab:
            raise CheckpointRefused(
                f"{folder.name}: {tokenizer.vocab} tokens, the model has {model.config.vocab}"
            )
        model.load_state_dict(load(parts["model.safetensors"]))
        report: dict[str, Any] = json.loads(parts["report.json"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, CheckpointRefused):
            raise
        kind = type(error).__name__
        raise CheckpointRefused(f"{folder.name} does not read: {kind}: {error}") from error
    return model.eval(), tokenizer, report
