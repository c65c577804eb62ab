"""Pre-training from files to a checkpoint: read, tokenise, retrieve, train, measure, save."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from app.training.pretrain_data import (
    Text,
    build_corpus,
    read_texts,
    split_by_hash,
    train_tokenizer,
)
from app.training.pretrain_retrieval import Reach, Setting
from index_data.importing.importers import ImportRefused, find_files
from model.config import pick_device
from model.folders import read_manifest
from model.lm.checkpoint import load_lm, save_lm
from model.lm.config import LMConfig, PretrainConfig
from model.lm.corpus import LMCorpus
from model.lm.evaluation import spread, total_nats
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer
from model.lm.training import fingerprint, pretrain, steps_of
from model.training.curves import read_curve, thin
from model.training.trainer import Progress, Ticker
from model.training.workspace import TrainingRefused, open_workspace

MEASURED: Final = 4096
"""Held-out chunks that the report's figures are of, at most."""
PASSAGES_OF: Final[dict[Setting, str]] = {
    "own": "passages of the document's own past", "others": "passages of other documents"
}  # fmt: skip
LONG_CHUNKS: Final = 64
"""A file whose documents have more chunks than this, on average, is read with their own past."""


@dataclass(slots=True)
class Source:
    """Files of one kind of text. `setting` None: by the length of its documents."""

    name: str
    paths: list[Path]
    setting: Setting | None = None


@dataclass(slots=True)
class Plan:
    """All that a run is: what is read, into what, and how."""

    out: Path
    sources: list[Source]
    shape: dict[str, Any] = field(default_factory=dict)
    run: PretrainConfig = field(default_factory=PretrainConfig)
    vocab: int = 8192
    held_out: float = 0.05
    device: str = "auto"
    work: Path | None = None  # the state of the run lies beside it; None: beside `out`
    documents: bytes = b""  # digests of the ids of what it learns from (`model.provenance`)
    start: Path | None = None  # a language model whose weights, shape and tokens it begins with


def plan_of(
    out: Path,
    sources: list[Source],
    *,
    tokens: int,
    batch_tokens: int,
    vocab: int,
    optimizer: Literal["adamw", "sgd"],
    lr: float | None,
    held_out: float,
    seed: int,
    start: Path | None = None,
    **shape: int,
) -> Plan:
    """The plan for the options of the command line, which the job has too.

    `shape`: window, dim, layers, heads and k. `start`: a language model to go on from, with its
    shape and its tokens whatever the options say.

    Raises:
        ValueError: The sizes do not fit together.
    """
    run = PretrainConfig(
        tokens=tokens,
        batch_tokens=batch_tokens,
        optimizer=optimizer,
        lr=lr or (0.1 if optimizer == "sgd" else 2e-3),
        seed=seed,
    )
    if start is not None:
        return Plan(out, sources, run=run, held_out=held_out, start=start)
    shape["copy_layer"] = (shape["layers"] + 1) // 2
    LMConfig(vocab=vocab, **shape)
    return Plan(out, sources, shape, run, vocab, held_out)


def pretrain_from_files(
    plan: Plan,
    *,
    note: Callable[[str], None] = lambda line: None,
    rejected: Callable[[Path, int, str], None] = lambda path, line, why: None,
    stage: Callable[[int, int, str], None] = lambda step, total, name: None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Do it all and return the report; the same call after an interruption goes on.

    `stage` hears how far each stage but training is, `progress` of training.

    Raises:
        ImportRefused: A path that is not there or of another kind.
        TrainingRefused: No text, or the loss is no number any more.
        TrainingCancelled: `cancelled` answered true.
        CheckpointRefused: The output folder is there already, or `start` does not read.
    """
    if plan.out.exists():
        raise TrainingRefused(f"{plan.out} is there already: name another folder")
    start = load_lm(plan.start) if plan.start is not None else None
    work = open_workspace(plan.work or plan.out, _digest(plan))
    shape = start[0].config if start is not None else LMConfig(vocab=plan.vocab, **plan.shape)
    tokens = start[1] if start is not None else None
    corpus, tokenizer = _corpus(plan, shape, tokens, work / "corpus", note, rejected, stage)
    device = pick_device(plan.device)
    torch.manual_seed(plan.run.seed)
    model = start[0] if start is not None else RetrievalLM(replace(shape, vocab=tokenizer.vocab))
    model, config = model.to(device), model.config
    total = steps_of(config, plan.run)
    size = sum(p.numel() for p in model.parameters())
    note(f"{size / 1e6:.1f}M parameters, {total} steps, {device}")
    ticker = Ticker(total, progress, cancelled)
    state = pretrain(model, corpus, plan.run, work / "main", ticker, tokenizer.byte_lengths())
    stage(0, 1, "measure")
    report = {
        "config": asdict(config),
        "run": asdict(plan.run),
        "parameters": size,
        "corpus": corpus.notes | {"sha256": corpus.sha256()},
        "fingerprint": fingerprint(config, plan.run, corpus.sha256()),
        "metrics": measure(model, corpus, tokenizer),
        "curve": thin(read_curve(work / "main")),
        **{name: state[name] for name in ("step", "tokens", "seconds", "cpu_seconds")},
    }
    if start is not None:
        report["before"] = before(start[2])
    report["sha256"] = save_lm(plan.out, model, tokenizer, report, plan.documents)
    shutil.rmtree(work, ignore_errors=True)
    return report


def measure(
    model: RetrievalLM, corpus: LMCorpus, tokenizer: LMTokenizer
) -> dict[str, dict[str, float]]:
    """Held-out bits per byte and perplexity of words, with what is retrieved and without.

    Both are of the text as it was given: its bytes of UTF-8, and its words between white space.
    """
    figures = {}
    lengths = tokenizer.byte_lengths()
    for source in sorted({d.source for d in corpus.documents}):
        chunks = spread(corpus.chunks_of("test", source), MEASURED)
        if not len(chunks):
            continue
        size = int(lengths[corpus.tokens[chunks]].sum())
        words = len(tokenizer.decode(corpus.tokens[chunks].ravel().tolist()).split())
        for condition, closed_book in (("on", False), ("off", True)):
            nats = total_nats(model, corpus, chunks, closed_book=closed_book)
            figures[f"{source}, {condition}"] = {
                "bits_per_byte": nats / float(np.log(2)) / max(size, 1),
                "word_perplexity": float(np.exp(nats / max(words, 1))),
                "bytes": float(size),
            }
    return figures


def before(report: dict[str, Any]) -> dict[str, Any]:
    """What a report says of the model that a run started from, and of those before it."""
    names = ("fingerprint", "run", "tokens", "before")
    return {name: report[name] for name in names if name in report}


def _digest(plan: Plan) -> str:
    """What a run is, files included: those that changed make it another one."""
    files = [
        [source.name, source.setting, str(file), file.stat().st_size]
        for source in plan.sources
        for file in find_files(source.paths)
    ]
    raw = [files, plan.shape, asdict(plan.run), plan.vocab, plan.held_out]
    if plan.start is not None:
        raw.append(read_manifest(plan.start)[1])
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def _corpus(
    plan: Plan,
    shape: LMConfig,
    tokenizer: LMTokenizer | None,
    folder: Path,
    note: Callable[[str], None],
    rejected: Callable[[Path, int, str], None],
    stage: Callable[[int, int, str], None],
) -> tuple[LMCorpus, LMTokenizer]:
    """The corpus of a plan, made once; tokens are learned unless they are given."""
    words = folder / "tokenizer.json"
    if not (folder / "documents.json").exists():
        stage(0, 1, "read")
        texts, settings = _texts(plan, shape.chunk, rejected)
        origins = "; ".join(f"{name}: {PASSAGES_OF[one]}" for name, one in settings.items())
        note(f"{len(texts)} documents read: {origins}")
        if tokenizer is None:
            stage(0, 1, "learn the tokens")
            tokenizer = train_tokenizer(texts, plan.vocab)
            note(f"{tokenizer.vocab} tokens learned")
        reach = Reach(max(shape.k, 1), shape.chunks, shape.passage_chunks)
        corpus = build_corpus(
            texts,
            tokenizer,
            settings,
            reach,
            shape.chunk,
            lambda done, total: stage(done, total, "retrieve"),
        )
        note(f"{len(corpus.tokens)} chunks, retrieved: {json.dumps(corpus.notes['retrieval'])}")
        folder.mkdir(parents=True, exist_ok=True)
        words.write_text(tokenizer.to_json(), encoding="utf-8")
        corpus.save(folder)
    return LMCorpus.load(folder), LMTokenizer.load(words)


def _texts(
    plan: Plan, chunk: int, rejected: Callable[[Path, int, str], None]
) -> tuple[list[Text], dict[str, Setting]]:
    split = split_by_hash(plan.held_out)
    texts: list[Text] = []
    settings: dict[str, Setting] = {}
    for source in plan.sources:
        before = len(texts)
        for file in find_files(source.paths):
            try:
                texts += read_texts(file, source.name, split, partial(rejected, file))
            except (OSError, EOFError) as error:
                raise ImportRefused(f"{file}: {error}") from error
        mine = texts[before:]
        if not mine:
            raise TrainingRefused(f"{source.name}: no document in {len(source.paths)} paths")
        # About four characters a token.
        mean = sum(len(text.text) for text in mine) / len(mine) / 4 / chunk
        settings[source.name] = source.setting or ("own" if mean > LONG_CHUNKS else "others")
    if not any(text.split == "train" for text in texts):
        raise TrainingRefused(f"all of {len(texts)} documents are held out: lower --held-out")
    return texts, settings


def sources_of(paths: Sequence[str]) -> list[Source]:
    """`[NAME=]PATH[:own|:others]`, as the command line takes it; paths of one name go together.

    Raises:
        ImportRefused: Two settings for one name.
    """
    sources: dict[str, Source] = {}
    for given in paths:
        name, _, rest = given.rpartition("=")
        setting: Setting | None = None
        for one in ("own", "others"):
            if rest.endswith(f":{one}"):
                setting = "own" if one == "own" else "others"
                rest = rest.removesuffix(f":{one}")
        path = Path(rest)
        name = name or path.name.split(".")[0] or "text"
        source = sources.setdefault(name, Source(name, [], setting))
        if source.paths and source.setting != setting:
            raise ImportRefused(f"{name}: {source.setting} and {setting} at once")
        source.paths.append(path)
    return list(sources.values())
