"""``footnote doctor``: what is there, what is wrong with it, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from app.cli.client import settings_or_exit
from app.cli.output import emit_json, json_option
from app.settings import Settings, unknown_variables

State = Literal["ok", "warning", "problem"]
LOW_DISK = 1 << 30
MARKS = {
    "ok": ("ok     ", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "red"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do."""

    about: str
    state: State
    detail: str
    advice: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check store, index, checkpoints, models, settings and disk, and explain what is found.

    Only reads, and may run beside a server. Exits with 1 when there is a problem.
    """
    settings = settings_or_exit(quiet=True)
    findings: list[Finding] = []
    for check in (disk, variables, store, generations, checkpoints, encoder, generator):
        for finding in check(settings):
            findings.append(finding)
            if not as_json:
                show(finding)
    if as_json:
        emit_json([asdict(finding) for finding in findings])
    if any(finding.state == "problem" for finding in findings):
        raise SystemExit(1)


def show(finding: Finding) -> None:
    """One finding as a line, and what to do about it as another."""
    mark, colour = MARKS[finding.state]
    click.echo(f"{click.style(mark, fg=colour)}  {finding.about}: {finding.detail}")
    if finding.advice:
        click.echo(f"         -> {finding.advice}")


def disk(settings: Settings) -> Iterator[Finding]:
    """Space and the right to write, where state is kept."""
    for name, folder in (("store", settings.store_dir), ("checkpoints", settings.checkpoint_dir)):
        there = nearest(folder)
        free = shutil.disk_usage(there).free
        about = f"disk of the {name}"
        if not os.access(there, os.W_OK):
            yield Finding(about, "problem", f"{there} cannot be written to", "change its owner")
            continue
        low = free < LOW_DISK
        advice = "free some space: writes answer 507 when it is full" if low else ""
        state: State = "warning" if low else "ok"
        yield Finding(about, state, f"{free / 1e9:.1f} GB free at {there}", advice)


def variables(settings: Settings) -> Iterator[Finding]:
    """The settings themselves were checked when they were read; here is what nobody reads."""
    if unknown := unknown_variables():
        detail = f"not a setting, ignored: {', '.join(unknown)}"
        yield Finding("settings", "warning", detail, "docs/settings.md lists them all")
    else:
        yield Finding("settings", "ok", "every FOOTNOTE_ variable is one that is read")


def store(settings: Settings) -> Iterator[Finding]:
    """Who holds the store, and whether every row of it is whole."""
    from index_data.storage.database import FILE_NAME
    from index_data.storage.lock import holder
    from index_data.storage.store import ReadOnlyStore, StoreError

    folder = settings.store_dir
    holding = holder(folder)
    if holding is None:
        yield Finding("lock", "ok", "no server holds the store")
    else:
        by = f"held by process {holding.pid}, {holding.address or 'no address'}"
        yield Finding("lock", "ok", by)
    try:
        opened = ReadOnlyStore(folder)
    except StoreError as error:
        if not (folder / FILE_NAME).exists():
            yield Finding("store", "ok", f"{folder} holds none yet: serve makes one")
            return
        advice = "restore the file from a backup, or move the folder away to start anew"
        yield Finding("store", "problem", str(error), advice)
        return
    with closing(opened):
        try:
            wrong = opened.verify()
            about = f"{opened.count()} documents, sequence {opened.sequence}"
        except StoreError as error:
            wrong, about = [str(error)], "cannot be read through"
    if not wrong:
        yield Finding("store", "ok", f"{about}, every row is whole")
        return
    advice = "the rest is served; import the named documents again"
    named = "; ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
    yield Finding("store", "problem", f"{about}: {named}", advice)


def generations(settings: Settings) -> Iterator[Finding]:
    """Each index generation against its manifest."""
    from app.jobs.inputs import index_folder
    from index_data.generations.build import generation_folders
    from index_data.segment.manifest import GenerationCorrupt, verify

    folders = generation_folders(index_folder(settings)) if settings.store_dir.is_dir() else []
    if not folders:
        yield Finding("index", "ok", "no generation yet: one is built when the server runs")
    for _, folder in folders:
        try:
            manifest = verify(folder)
        except GenerationCorrupt as error:
            advice = "the server serves another, or builds a new one: footnote reindex"
            yield Finding(folder.name, "problem", str(error), advice)
        else:
            vectors = "vectors" if manifest.encoder_sha else "no vectors"
            detail = f"{manifest.documents} documents, sequence {manifest.sequence}, {vectors}"
            yield Finding(folder.name, "ok", detail)


def checkpoints(settings: Settings) -> Iterator[Finding]:
    """Each checkpoint against its manifest, and which one serves."""
    from app.records.registry import NO_CHECKPOINT, Registry

    registry = Registry(settings.checkpoint_dir)
    for info in registry.checkpoints():
        about = f"checkpoint {info.version}"
        if info.problem is not None:
            advice = "train again, or remove its folder"
            yield Finding(about, "problem", info.problem, advice)
            continue
        fields = ", ".join(info.about["fields"])
        serves = ", serves" if info.active else ""
        yield Finding(about, "ok", f"heads for {fields}{serves}")
    choice = registry.choose()
    if choice.version == NO_CHECKPOINT:
        detail = "no checkpoint: neighbours alone answer"
        yield Finding("model", "warning", detail, "footnote train --field label")
    elif choice.version != registry.active:
        detail = f"{registry.active} was to serve and cannot, {choice.version} does"
        yield Finding("model", "problem", detail, "footnote models activate VERSION")


def encoder(settings: Settings) -> Iterator[Finding]:
    """Whether the base encoder loads, and made what serves."""
    from model.encoder.encoder import Encoder, EncoderRefused

    try:
        loaded = Encoder.load(settings.encoder)
    except EncoderRefused as error:
        yield Finding("encoder", "problem", str(error), "set FOOTNOTE_ENCODER to one that is")
        return
    detail = f"{loaded.name}, {loaded.dim} dimensions, sha256 {loaded.sha256[:12]}"
    yield Finding("encoder", "ok", detail)
    for name, sha256, advice in made_by(settings):
        if sha256 != loaded.sha256:
            detail = f"{name} was made with {sha256[:12]}, the encoder is {loaded.sha256[:12]}"
            yield Finding("encoder", "problem", detail, advice)


def generator(settings: Settings) -> Iterator[Finding]:
    """Whether the generator, where there is to be one, would be loaded. Nothing of it is."""
    from app.inference.language_models import generator_source
    from model.config import pick_device, pick_dtype
    from model.folders import CheckpointRefused, check_files, read_manifest
    from model.lm.generator import is_language_model
    from model.text_generation.generator_files import (
        GeneratorFiles,
        GeneratorRefused,
        available_memory,
    )

    if settings.generator is None:
        return
    folder = Path(generator_source(settings.generator))
    if not folder.is_dir():
        yield Finding("generator", "warning", "a hub id: looked at only when it is loaded")
        return
    try:
        files = GeneratorFiles.of(folder)
        item = pick_dtype(settings.dtype, pick_device(settings.device)).itemsize
        context = min(settings.generator_context, files.longest or settings.generator_context)
        available = available_memory()
        files.check_memory(item, available, context=context, streams=settings.generator_streams)
        if is_language_model(folder):
            check_files(folder, read_manifest(folder)[0]["files"])
    except (GeneratorRefused, CheckpointRefused) as error:
        advice = "set FOOTNOTE_GENERATOR to another one: docs/generation.md says which"
        yield Finding("generator", "problem", str(error), advice)
        return
    detail = f"{folder.name}, {files.parameters:,} weights, {context} tokens of context"
    yield Finding("generator", "ok", detail)


def made_by(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """(what, sha256 of its encoder, what to do) for what serves."""
    from app.jobs.inputs import index_folder
    from app.records.registry import MANIFEST, Registry
    from index_data.generations.build import generation_folders
    from index_data.segment.manifest import NAME

    choice = Registry(settings.checkpoint_dir).choose()
    if choice.folder is not None:
        manifest = json.loads((choice.folder / MANIFEST).read_text(encoding="utf-8"))
        advice = "train again, or set FOOTNOTE_ENCODER back"
        yield (f"checkpoint {choice.version}", manifest["encoder"]["sha256"], advice)
    folders = generation_folders(index_folder(settings))
    if folders and (folders[-1][1] / NAME).is_file():
        body = json.loads((folders[-1][1] / NAME).read_text(encoding="utf-8"))
        if body.get("encoder_sha"):
            yield (folders[-1][1].name, body["encoder_sha"], "footnote reindex")


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
