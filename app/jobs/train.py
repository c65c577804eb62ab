"""The job that trains a head: freeze, train, report, decide; then the server activates.

The child reads the store and the index without touching them, retrieves once for each row, and
trains on the frozen rows; what differs by task is in `app.training.tasks`. What it was doing when
it stopped stays on the disk, so a job that is resumed goes on with the rows and the weights it had.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.inference.device import pick_device
from app.jobs.job import RESUMABLE, Job, JobKind
from app.jobs.reindex import index_folder
from app.records.datasets import FOLDER
from app.records.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from app.training.context import Training
from app.training.frozen_rows import SET
from app.training.promotion import decide
from app.training.tasks import TASKS, train
from app.worker import JobCancelled, JobRefused, Reporter

if TYPE_CHECKING:
    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder

TYPE: Final = "train"
WORK: Final = "jobs"  # under the store's folder: the frozen rows of each job
KEPT_WORK: Final = 3  # unfinished jobs whose work is kept for resuming


def work_folder(settings: Settings, job_id: str) -> Path:
    """Where a job keeps the rows that it trains on."""
    return settings.store_dir / WORK / job_id


def kind(settings: Settings, registry: Registry, activate: Callable[[str], object]) -> JobKind:
    """The training job of a server; ``activate`` loads, warms up and swaps a version in."""

    def prepare(job: Job) -> dict[str, Any]:
        registry.keep_active()  # what is only added must not serve after a restart
        base = job.params["base"] or registry.active
        return {
            **reading(settings),
            "_out": str(settings.checkpoint_dir / str(job.params["version"])),
            "_base": None if base == NO_CHECKPOINT else str(registry.find(base)),
            "_work": str(work_folder(settings, job.id)),
            "_dataset": dataset_folder(settings, job.params.get("dataset")),
        }

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        version = str(job.params["version"])
        margin = float(job.params.get("margin") or 0.0)
        decision = decide(result["report"], job.params["activate"], margin)
        better, reason = decision["activate"], decision["reason"]
        registry.keep_decision(version, {"job_id": job.id, "decided": time.time(), **decision})
        if better:
            activate(version)
        shutil.rmtree(work_folder(settings, job.id), ignore_errors=True)
        outcome = {"version": version, "activated": better, "reason": reason, "gate": decision}
        return {**outcome, **result}

    return JobKind("app.jobs.train:run", prepare, finish)


def reading(settings: Settings) -> dict[str, Any]:
    """What a child needs to know to read store, index and encoder as the server does."""
    return {
        "_store": str(settings.store_dir),
        "_index": str(index_folder(settings)),
        "_encoder": settings.encoder,
        "_device": settings.device,
        "_passage_words": settings.passage_words,
    }


def dataset_folder(settings: Settings, name: str | None) -> str | None:
    """Where an uploaded set lies."""
    return None if name is None else str(settings.store_dir / FOLDER / name)


def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Freeze the rows, train, write the checkpoint (the child's part)."""
    import torch

    from model.folders import CheckpointRefused
    from model.training.trainer import TrainingCancelled
    from model.training.workspace import TrainingRefused

    torch.set_num_threads(1)
    encoder = load_encoder(params, reporter)
    training = Training(
        params=params,
        encoder=encoder,
        base=starting_point(params, encoder),
        work=Path(params["_work"]),
        out=Path(params["_out"]),
        reporter=reporter,
    )
    if not (training.work / SET).exists():
        with opened(params, encoder) as searcher:
            TASKS[params["task"]].freeze(training, searcher)
    try:
        return train(training)
    except TrainingCancelled:
        raise JobCancelled from None
    except (TrainingRefused, CheckpointRefused) as refused:
        raise JobRefused(str(refused)) from refused


def starting_point(params: dict[str, Any], encoder: Encoder) -> Path | None:
    """The checkpoint whose other heads are kept; None starts anew.

    The one that is active is passed over where it belongs to another encoder (then it does not
    serve either); one that was asked for by name is refused, before the work and not after it.
    """
    from model.checkpoint import verify
    from model.folders import CheckpointRefused

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


def load_encoder(params: dict[str, Any], reporter: Reporter) -> Encoder:
    """The base encoder in single precision, which training needs on a CPU."""
    from model.encoder.encoder import Encoder, EncoderRefused

    reporter.progress(0, 1, "load the encoder")
    try:
        return Encoder.load(params["_encoder"], device=pick_device(params["_device"]))
    except EncoderRefused as refused:
        raise JobRefused(str(refused)) from refused


@contextmanager
def opened(
    params: dict[str, Any], encoder: Encoder, built: Path | None = None
) -> Iterator[Searcher]:
    """The index as the server sees it now, for reading only.

    ``built``: as it would be with this generation, which is not registered yet.
    """
    from index_data.generations.index import Index, NoGeneration
    from index_data.storage.store import ReadOnlyStore

    store = ReadOnlyStore(Path(params["_store"]))
    try:
        index = Index(
            store,
            Path(params["_index"]),
            passage_words=params["_passage_words"],
            encoder_sha=encoder.sha256,
        )
        if built is not None:
            index.try_out(built)
        else:
            try:
                index.open()
            except NoGeneration:
                index.open_without_generation()
        yield index.searcher
    finally:
        store.close()


def sweep(settings: Settings, jobs: Iterable[Job]) -> None:
    """Remove the work of jobs that nobody will resume: all but the newest unfinished ones."""
    unfinished = [job for job in jobs if "version" in job.params and job.state in RESUMABLE]
    unfinished.sort(key=lambda job: job.created, reverse=True)
    kept = {job.id for job in unfinished[:KEPT_WORK]}
    versions = {str(job.params["version"]) for job in unfinished[:KEPT_WORK]}
    for folder in (settings.store_dir / WORK).glob("job_*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in settings.checkpoint_dir.glob(".*.training"):
        if folder.name[1:].removesuffix(".training") not in versions:
            shutil.rmtree(folder, ignore_errors=True)
