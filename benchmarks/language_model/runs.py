"""The models that `benchmarks.language_model` compares, trained at equal compute and kept."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from app.training.pretrain import before
from benchmarks.tools.progress import Line
from model.config import pick_device
from model.lm.checkpoint import load_lm, save_lm
from model.lm.config import PAD, LMConfig, PretrainConfig
from model.lm.corpus import LMCorpus
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer
from model.lm.training import Rows, fingerprint, pretrain, rows_of, steps_of, train_step
from model.training.curves import read_curve, thin
from model.training.trainer import Ticker, make_optimizer
from model.training.workspace import open_workspace

SHAPES: dict[str, dict[str, Any]] = {
    # No retrieval: a pointer into the same window, and into one four times as long.
    "window": {"k": 0},
    "long": {"k": 0, "window": 1024},
    # Retrieval: a pointer into passages too.
    "copy": {},
}
"""Other forms of reading passages were compared at commit 397991a: docs/language-model.md."""
REFERENCE = "long"
"""Its tokens are given; the others get as many as the same compute allows."""


def config_of(name: str, vocab: int, size: dict[str, Any]) -> LMConfig:
    """The shape of a model."""
    copy_layer = (size.get("layers", 4) + 1) // 2
    return LMConfig(vocab=vocab, copy_layer=copy_layer, **size, **SHAPES[name])


def flops_a_token(config: LMConfig, corpus: LMCorpus, run: PretrainConfig) -> float:
    """Operations of the products of a training step, forward and backward, by predicted token.

    Counted on the first rows of the very corpus, so that passages that are shared count once.
    """
    rows = Rows(corpus, config, rows_of(config, replace(run, batch_tokens=1024)), run.seed)
    batch = corpus.batch(rows.of_step(0), config)
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        model = RetrievalLM(config)
        model(batch).sum().backward()
    return float(counter.get_total_flops()) / int((batch.targets != PAD).sum())


def run_of(
    name: str, config: LMConfig, corpus: LMCorpus, size: dict[str, Any], run: PretrainConfig
) -> PretrainConfig:
    """The run of a model with the compute that the reference needs for `run.tokens`."""
    if name == REFERENCE:
        return run
    reference = config_of(REFERENCE, config.vocab, size)
    ratio = flops_a_token(reference, corpus, run) / flops_a_token(config, corpus, run)
    return replace(run, tokens=int(run.tokens * ratio))


def trained(
    name: str,
    corpus: LMCorpus,
    tokenizer: LMTokenizer,
    size: dict[str, Any],
    run: PretrainConfig,
    folder: Path,
    device: str,
    start: Path | None = None,
) -> tuple[RetrievalLM, dict[str, Any]]:
    """The model of a name: read if it is there, else trained, or gone on with.

    `start`: a model of the same shape and tokens, whose weights the run begins with.
    """
    out = folder / name
    config = config_of(name, tokenizer.vocab, size)
    mine = run_of(name, config, corpus, size, run)
    digest = fingerprint(config, mine, corpus.sha256())
    first = started_from(start, config, tokenizer) if start is not None else None
    if first is not None:
        digest = f"{digest}-{first[1]['fingerprint']}"
    if out.exists():
        model, _, report = load_lm(out)
        if report["fingerprint"] != digest:
            raise SystemExit(f"{out} is of another run: remove it, or take another --folder")
        return model.to(pick_device(device)), report
    torch.manual_seed(mine.seed)
    model = (first[0] if first is not None else RetrievalLM(config)).to(pick_device(device))
    work = open_workspace(out, digest)
    ticker = Ticker(steps_of(config, mine), Line(name))
    state = pretrain(model, corpus, mine, work / "main", ticker, tokenizer.byte_lengths())
    report = {
        "fingerprint": digest, "run": asdict(mine), "config": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_a_token": flops_a_token(config, corpus, mine), **state,
        "curve": thin(read_curve(work / "main")),
    }  # fmt: skip
    if first is not None:
        report["before"] = before(first[1])
    save_lm(out, model.cpu(), tokenizer, report)
    shutil.rmtree(work, ignore_errors=True)
    return model.to(pick_device(device)), report


def started_from(
    start: Path, config: LMConfig, tokenizer: LMTokenizer
) -> tuple[RetrievalLM, dict[str, Any]]:
    """The model that a run begins with, and its report."""
    model, words, report = load_lm(start)
    if model.config != config or words.to_json() != tokenizer.to_json():
        raise SystemExit(f"{start} is of another shape, or of other tokens")
    return model, report


def ship(name: str, folder: Path, out: Path, notes: dict[str, Any]) -> None:
    """A trained model as it ships: in half the bytes (bf16), with what its text was made of."""
    model, tokenizer, report = load_lm(folder / name)
    save_lm(out, model.bfloat16(), tokenizer, report | {"corpus": notes})


def speed(
    name: str, corpus: LMCorpus, vocab: int, size: dict[str, Any], run: PretrainConfig, steps: int
) -> dict[str, float]:
    """Predicted tokens a second of processor time in training, and operations a token."""
    config = config_of(name, vocab, size)
    rows = Rows(corpus, config, rows_of(config, run), run.seed)
    model = RetrievalLM(config)
    optimizer = make_optimizer(model, run.optimizer, run.lr, run.weight_decay)
    began, tokens = 0.0, 0
    for step in range(-1, steps):  # the first one makes kernels
        if step == 0:
            began, tokens = time.process_time(), 0
        batch = rows.of_step(step + 1)
        tokens += train_step(model, batch, corpus, run, step + 1, optimizer)[1]
    seconds = time.process_time() - began
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "mflop_a_token": round(flops_a_token(config, corpus, run) / 1e6, 1),
        "tokens_a_second": round(tokens / seconds),
    }
