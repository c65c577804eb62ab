"""The job that trains a head: freeze, train, report, judge; then the server activates.

The child reads the store and the index without touching them, retrieves once for each labelled
document, and trains on the frozen rows. What it was doing when it stopped stays on the disk, so a
job that is resumed goes on with the rows and the weights it had.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.datasets import FOLDER, DatasetBroken, load_rows
from app.indexing_job import index_folder, pick_device
from app.jobs import RESUMABLE, Job, JobKind
from app.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from app.worker import JobCancelled, JobRefused, Reporter
from index_data.documents import Document, content_id

if TYPE_CHECKING:
    from index_data.documents import Document
    from index_data.searcher import Searcher
    from model.encoder import Encoder
    from model.metrics import Paired
    from model.training import Report

TYPE: Final = "train"
WORK: Final = "jobs"  # under the store's folder: the frozen rows of each job
MAX_FEEDBACK: Final = 500  # recorded feedback that the gate asks
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
            "_dataset": dataset_folder(settings, job.params.get("dataset")),
        }

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        version = str(job.params["version"])
        margin = float(job.params.get("margin") or 0.0)
        decision = gate(result["report"], job.params["activate"], margin)
        better, reason = decision["activate"], decision["reason"]
        registry.keep_decision(version, {"job_id": job.id, "decided": time.time(), **decision})
        if better:
            activate(version)
        shutil.rmtree(work_folder(settings, job.id), ignore_errors=True)
        said = {"version": version, "activated": better, "reason": reason, "gate": decision}
        return {**said, **result}

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


def dataset_folder(settings: Settings, name: str | None) -> str | None:
    """Where an uploaded set lies."""
    return None if name is None else str(settings.store_dir / FOLDER / name)


def dataset_documents(params: dict[str, Any]) -> Iterator[Document] | None:
    """The rows of the uploaded set that is to be learned, as documents; ``None``: the index's.

    A set that says only ``label`` is one of whatever field is asked for. Raises
    :class:`JobRefused` when it is gone or is not what was uploaded.
    """
    if params.get("_dataset") is None:
        return None
    try:
        _, rows = load_rows(Path(params["_dataset"]))
    except DatasetBroken as broken:
        raise JobRefused(str(broken)) from broken
    field = params["field"]
    return (
        Document(
            id=row.get("id") or content_id(row["text"]),
            text=row["text"],
            labels={field: row["labels"]["label"]}
            if [*row["labels"]] == ["label"]
            else row["labels"],
        )
        for row in rows
    )


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
                learned=dataset_documents(params),
                opinions=recorded_feedback(params),
            )
    info, rows = training_set.load(work)
    try:
        report = train_head(
            rows,
            config,
            encoder,
            out,
            base=base,
            opinions=training_set.load_feedback(work),
            documents=digests(training_set.documents(work)),
            progress=lambda step, total, loss, _: reporter.progress(step, total, "train", loss),
            cancelled=reporter.cancelled,
        )
    except TrainingCancelled:
        raise JobCancelled from None
    except (TrainingRefused, CheckpointRefused) as refused:
        raise JobRefused(str(refused)) from refused
    return {"report": _shown(report, info.lists), "data": asdict(info)}


def recorded_feedback(params: dict[str, Any]) -> list[Document]:
    """What people said is right in this field, as labelled texts: the newest so many."""
    from app.feedback import opinions
    from index_data.documents import Document
    from index_data.store import DocumentStore

    field = str(params["field"])
    store = DocumentStore.open_read_only(Path(params["_store"]))
    try:
        said = opinions(store, field)[-MAX_FEEDBACK:]
    finally:
        store.close()
    return [Document(id=one.id, text=one.text, labels={field: str(one.label)}) for one in said]


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


def gate(report: dict[str, Any], wish: str, margin: float = 0.0) -> dict[str, Any]:
    """Whether a new head is to serve, why, and the figures of the paired test.

    Recorded feedback on texts that are in no training row counts as further rows: the test is on
    both together, and on held-out rows alone the head must not be worse by more than the margin.

    Against the head of this field that serves, on rows that neither judges by heart: it goes live
    when the one-sided 90 % bootstrap interval of the difference in accuracy does not reach below
    ``-margin``, and with a margin of 0 only when the difference is above 0 too. Where no head
    serves, against the neighbours alone: then a difference of ``-margin`` suffices, since the head
    brings a calibrated confidence.
    """
    from model.metrics import Paired

    paired = report["diagnosis"]["paired"]
    rival = "previous" if "previous" in paired else "neighbours"
    held_out = Paired(**paired[rival])
    said = report["diagnosis"].get("feedback", {}).get("paired", {}).get(rival)
    feedback = Paired(**said) if said else Paired(0, 0, 0)
    test = held_out.plus(feedback)
    lower = test.lower()
    decision: dict[str, Any] = {
        "wish": wish,
        "margin": margin,
        "against": rival,
        "accuracy": report["metrics"]["on"]["accuracy"],
        "rival_accuracy": report["metrics"][rival]["accuracy"],
        "difference": round(test.difference, 6),
        "lower_90": round(lower, 6),
        "evaluated_on": report["evaluated_on"],
        **test.to_json(),
        "held_out": held_out.to_json(),
        "feedback": feedback.to_json(),
    }
    better, why = judged(test, lower, margin, first=rival == "neighbours")
    if better and (not held_out.rows or held_out.difference < -margin):
        better, why = False, "Worse on held-out rows, whatever recorded feedback says"
    if wish != "if_better":
        better = wish == "always"
        why = "Activation was asked for in any case" if better else "Activation was not asked for"
    name = "the neighbours alone" if rival == "neighbours" else "the head that serves"
    figures = (
        f"accuracy {decision['accuracy']:.4f}, {name} {decision['rival_accuracy']:.4f}; "
        f"{test.better} rows better, {test.worse} worse of {test.rows}"
        f"{f' ({feedback.rows} of them recorded feedback)' if feedback.rows else ''}, "
        f"difference at least {lower:+.4f} (90 %)"
    )
    return decision | {"activate": better, "reason": f"{why}: {figures}."}


def judged(test: Paired, lower: float, margin: float, *, first: bool) -> tuple[bool, str]:
    """Whether a paired test is passed, and why. ``first``: there is no rival but neighbours."""
    if not test.rows:
        return False, "There were no held-out rows to compare on"
    if first:
        passed = test.difference >= -margin
        return passed, "As good or better on held-out rows" if passed else "Worse on held-out rows"
    if margin > 0:
        passed = lower >= -margin
        return passed, f"{'Not worse' if passed else 'Possibly worse'} by more than {margin:g}"
    if test.difference <= 0:
        return False, "Not better on held-out rows"
    if lower < 0:
        return False, "Not surely better on held-out rows"
    return True, "Better on held-out rows"


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
