"""A language model's checkpoint: a folder that holds all that is needed to go on writing text.

    manifest.json       format, version, sha256 of every other file
    model.safetensors   weights
    config.json         its shape (`model.lm.config`)
    tokenizer.json      its tokens
    report.json         what it was trained on, and how well it does
    documents.bin       digests of the documents' ids, if they are known (`model.provenance`)

It is there whole or not at all, and verified before anything is parsed (`model.folders`); nothing
is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

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
from model.lm.config import LMConfig
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer
from model.provenance import DOCUMENTS

FORMAT = 1
KIND = "language model"


def save_lm(
    out: Path,
    model: RetrievalLM,
    tokenizer: LMTokenizer,
    report: dict[str, Any],
    documents: bytes = b"",
) -> str:
    """Write a checkpoint; its manifest's sha256.

    Raises:
        CheckpointRefused: `out` is there already.
        OSError: The disk; nothing is left at `out`.
    """
    with written_whole(out) as aside:
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        write_file(aside / "model.safetensors", save(tensors))
        write_file(aside / "config.json", to_bytes(asdict(model.config)))
        write_file(aside / "tokenizer.json", tokenizer.to_json().encode())
        write_file(aside / "report.json", to_bytes(report))
        if documents:
            write_file(aside / DOCUMENTS, documents)
        write_manifest(aside, out.name, {"format": FORMAT, "kind": KIND})
    return read_manifest(out)[1]


def load_lm(folder: Path) -> tuple[RetrievalLM, LMTokenizer, dict[str, Any]]:
    """Verify and read a checkpoint: the network in evaluation mode, its tokenizer, its report.

    Raises:
        CheckpointRefused: Something is missing, changed or of another format, or does not fit.
    """
    with refusing(folder):
        manifest, _ = read_manifest(folder)
        if manifest["format"] != FORMAT or manifest.get("kind") != KIND:
            raise CheckpointRefused(f"{folder.name} holds no language model of format {FORMAT}")
        check_files(folder, manifest["files"])
        model = RetrievalLM(LMConfig.from_json(json.loads((folder / "config.json").read_bytes())))
        tokenizer = LMTokenizer.load(folder / "tokenizer.json")
        if tokenizer.vocab > model.config.vocab:
            raise CheckpointRefused(
                f"{folder.name}: {tokenizer.vocab} tokens, the model has {model.config.vocab}"
            )
        model.load_state_dict(load((folder / "model.safetensors").read_bytes()))
        report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return model.eval(), tokenizer, report
