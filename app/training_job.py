"""The job that trains a head: freeze, train, report, judge; then the server activates.

The child reads the store and the index without touching them, retrieves once for each labelled
document, and trains on the frozen rows. What it was doing when it stopped stays on the disk, so a
job that is resumed goes on with the rows and the weights it had.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.indexing_job import index_folder, pick_device
from app.jobs import RESUMABLE, Job, JobKind
from app.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from app.worker import JobCancelled, JobRefused, Reporter

if TYPE_CHECKING:
    from index_data.searcher import Searcher
    from model.encoder import Encoder
    from model.training import Report

TYPE: Final = "train"
WORK: Final = "jobs"  # under the store's folder: the frozen rows of each job
KEPT_WORK: Final = 3  # unfinished jobs whose work is kept for resuming
OPTIONS: Final = ("optimizer", "lr", "epochs", "batch_size", "seed", "holdout")


def work_folder(settings: Settings, job_id: str) -> Path:
    """Where a job keeps the rows that it trains on."""
    return settings.store_dir / WORK / job_id


def kind(settings: Settings, registry: Registry, activate: Callable[[str], None]) -> JobKind:
    """The training job of a server; ``activate`` loads, warms up and swaps a version in."""

    def prepare(job: Job) -> dict[str, Any]:
        registry.keep_active()  # what is only added must not serve after a restart
        base = job.params["base"] or registry.active
        return {
            **reading(settings),
            "_out": str(settings.checkpoint_dir / str(job.params["version"])),
            "_base": None if base == NO_CHECKPOINT else str(registry.find(base)),
            "_work": str(work_folder(settings, job.id)),
        }

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        version = str(job.params["version"])
        better, reason = gate(result["report"]["metrics"], job.params["activate"])
        if better:
            activate(version)
        shutil.rmtree(work_folder(settings, job.id), ignore_errors=True)
        return {"version": version, "activated": better, "reason": reason, **result}

    return JobKind("app.training_job:run", prepare, finish)


def reading(settings: Settings) -> dict[str, Any]:
    """What a child needs to know to read store, index and encoder as the server does."""
    return {
        "_store": str(settings.store_dir),
        "_index": str(index_folder(settings)),
        "_encoder": settings.encoder,
        "_device": settings.device,
        "_passage_words": settings.passage_words,
    }


def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Freeze the rows, train, write the checkpoint (the child's part)."""
    import torch

    from app import training_set
    from model.checkpoint import CheckpointRefused
    from model.config import TrainConfig
    from model.provenance import digests
    from model.training import TrainingCancelled, TrainingRefused, train_head

    torch.set_num_threads(1)
    out, work = Path(params["_out"]), Path(params["_work"])
    given = {name: params[name] for name in OPTIONS if params.get(name) is not None}
    if params.get("k") is not None:
        given["k"] = params["k"]
    config = TrainConfig(field=params["field"], task=params["task"], **given)
    encoder = load_encoder(params, reporter)
    base = starting_point(params, encoder)
    if not (work / training_set.SET).exists():
        with opened(params, encoder) as searcher:
            training_set.freeze(
                searcher,
                work,
                field=config.field,
                k=config.k,
                encode=encoder.encode,
                fits=searcher.has_vectors,
                reporter=reporter,
            )
    info, rows = training_set.load(work)
    try:
        report = train_head(
            rows,
            config,
            encoder,
            out,
            base=base,
            documents=digests(training_set.documents(work)),
            progress=lambda step, total, loss, _: reporter.progress(step, total, "train", loss),
            cancelled=reporter.cancelled,
        )
    except TrainingCancelled:
        raise JobCancelled from None
    except (TrainingRefused, CheckpointRefused) as refused:
        raise JobRefused(str(refused)) from refused
    return {"report": _shown(report, info.lists), "data": asdict(info)}


def starting_point(params: dict[str, Any], encoder: Encoder) -> Path | None:
    """The checkpoint whose other heads are kept; None starts anew.

    The one that is active is passed over where it belongs to another encoder (then it does not
    serve either); one that was asked for by name is refused, before the work and not after it.
    """
    from model.checkpoint import CheckpointRefused, verify

    if params["_base"] is None:
        return None
    folder = Path(params["_base"])
    try:
        manifest = verify(folder)
    except CheckpointRefused as refused:
        raise JobRefused(str(refused)) from refused
    if manifest.encoder_sha256 == encoder.sha256:
        return folder
    if params.get("base") is None:
        return None
    raise JobRefused(
        f"checkpoint {manifest.version} belongs to the encoder {manifest.encoder_sha256[:12]}, "
        f"loaded is {encoder.sha256[:12]}"
    )


def gate(metrics: dict[str, dict[str, float]], wish: str) -> tuple[bool, str]:
    """Whether a new head is to serve, and why.

    By accuracy and then macro F1 on rows that it did not see: against the head of this field that
    serves, or, where there is none, against the neighbours alone (an equal head is taken then: it
    brings a calibrated confidence).
    """
    if wish == "never":
        return False, "Activation was not asked for."
    if wish == "always":
        return True, "Activation was asked for in any case."
    new = metrics.get("on")
    old = metrics.get("previous") or metrics.get("neighbours")
    if not new or not old or not new.get("rows"):
        return False, "There were no held-out rows to compare on."
    first = "previous" not in metrics
    rival = "the neighbours alone" if first else "the head that serves"
    figures = f"accuracy {new['accuracy']:.4f}, {rival} {old['accuracy']:.4f}"
    mine = (round(new["accuracy"], 6), round(new["macro_f1"], 6))
    theirs = (round(old["accuracy"], 6), round(old["macro_f1"], 6))
    if mine > theirs:
        return True, f"Better on held-out rows: {figures}."
    if first and mine[0] == theirs[0]:
        return True, f"As good on held-out rows, and calibrated: {figures}."
    return False, f"Not better on held-out rows: {figures}."


def load_encoder(params: dict[str, Any], reporter: Reporter) -> Encoder:
    """The base encoder in single precision, which training needs on a CPU."""
    from model.encoder import Encoder, EncoderRefused

    reporter.progress(0, 1, "load the encoder")
    try:
        return Encoder.load(params["_encoder"], device=pick_device(params["_device"]))
    except EncoderRefused as refused:
        raise JobRefused(str(refused)) from refused


@contextmanager
def opened(params: dict[str, Any], encoder: Encoder) -> Iterator[Searcher]:
    """The index as the server sees it now, for reading only."""
    from index_data.index import Index, NoGeneration
    from index_data.store import DocumentStore

    store = DocumentStore.open_read_only(Path(params["_store"]))
    try:
        index = Index(
            store,
            Path(params["_index"]),
            passage_words=params["_passage_words"],
            encoder_sha=encoder.sha256,
        )
        try:
            index.open()
        except NoGeneration:
            index.open_without_generation()
        yield index.searcher
    finally:
        store.close()


def sweep(settings: Settings, jobs: Iterable[Job]) -> None:
    """Remove the work of jobs that nobody will resume: all but the newest unfinished ones."""
    unfinished = [job for job in jobs if job.type == TYPE and job.state in RESUMABLE]
    unfinished.sort(key=lambda job: job.created, reverse=True)
    kept = {job.id for job in unfinished[:KEPT_WORK]}
    versions = {str(job.params["version"]) for job in unfinished[:KEPT_WORK]}
    for folder in (settings.store_dir / WORK).glob("job_*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in settings.checkpoint_dir.glob(".*.training"):
        if folder.name[1:].removesuffix(".training") not in versions:
            shutil.rmtree(folder, ignore_errors=True)


def _shown(report: Report, lists: int) -> dict[str, Any]:
    body = report.to_json()
    if lists:
        body["warnings"] = [
            *body["warnings"],
            f"{lists} documents have a list of labels in this field and were left out",
        ]
    return body
