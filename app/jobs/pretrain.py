"""The job that pre-trains a language model: on an uploaded set of texts, or the index's documents.

The child reads the text, retrieves for every chunk and trains, as ``footnote pretrain`` does. What
it was doing when it stopped lies in the job's folder, the documents as they stood included: a job
that is resumed goes on with the text and the weights that it had.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import orjson

from app.inference.language_models import SHIPPED_LANGUAGE, LanguageModels
from app.jobs.inputs import child_part, dataset_folder, work_folder
from app.jobs.job import Job, JobKind
from app.records.datasets import rows_file
from app.settings import Settings
from app.worker import Reporter
from index_data.documents import content_id

TYPE: Final = "pretrain"
DOCUMENTS: Final = "documents.jsonl"  # in the job's folder: the index's documents as they stood
OPTIONS: Final = (
    "tokens", "batch_tokens", "window", "dim", "layers", "heads", "vocab", "k",
    "optimizer", "lr", "held_out", "seed",
)  # fmt: skip


def kind(settings: Settings) -> JobKind:
    """The pre-training job of a server. What it makes serves nothing by itself."""
    models = LanguageModels(settings.checkpoint_dir)

    def prepare(job: Job) -> dict[str, Any]:
        start = job.params.get("start")  # a job of before has none
        return {
            "_store": str(settings.store_dir),
            "_device": settings.device,
            "_out": str(models.folder_of(str(job.params["version"]))),
            "_work": str(work_folder(settings, job.id)),
            "_dataset": dataset_folder(settings, job.params["dataset"]),
            "_start": None if start is None else str(models.folder_of(start)),
        }

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        shutil.rmtree(work_folder(settings, job.id), ignore_errors=True)
        return {"version": job.params["version"], "checkpoint": job.params["_out"], **result}

    return JobKind("app.jobs.pretrain:run", prepare, finish)


@child_part()
def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Read, retrieve, train, measure, save (the child's part)."""
    from app.training.pretrain import Source, plan_of, pretrain_from_files
    from model.provenance import digests

    out, work = Path(params["_out"]), Path(params["_work"])
    if out.exists():  # the server ended after it was saved
        return {"report": _without_curve(json.loads((out / "report.json").read_bytes()))}
    work.mkdir(parents=True, exist_ok=True)
    name, path = _text(params, work, reporter)
    source = Source(name, [path], params["setting"])
    start = None if params["_start"] is None else Path(params["_start"])
    plan = plan_of(out, [source], start=start, **{n: params[n] for n in OPTIONS})
    plan.device, plan.work = params["_device"], work / "model"
    plan.documents = _learned_from(digests(_ids(path)), start)
    report = pretrain_from_files(
        plan,
        stage=reporter.progress,
        progress=lambda step, total, loss, left: reporter.progress(step, total, "train", loss),
        cancelled=reporter.cancelled,
    )
    return {"report": _without_curve(report)}


def _learned_from(mine: bytes, start: Path | None) -> bytes:
    """The digests of a run's documents and of those before it; none where those are not known.

    What ships has learned from published text alone, and from no document of a user's.
    """
    from model.provenance import listed, united

    if start is None or start == SHIPPED_LANGUAGE:
        return mine
    known = listed(start)
    return united(mine, known) if known is not None else b""


def _without_curve(report: dict[str, Any]) -> dict[str, Any]:
    """The report as a job's result: its curve is read beside the model."""
    return {key: value for key, value in report.items() if key != "curve"}


def _text(params: dict[str, Any], work: Path, reporter: Reporter) -> tuple[str, Path]:
    """The name of the text that is learned from, and the file that it is in."""
    if params["_dataset"] is not None:
        about, path = rows_file(Path(params["_dataset"]))
        return about.name or "dataset", path
    path = work / DOCUMENTS
    if not path.exists():
        _freeze(Path(params["_store"]), path, reporter)
    return "documents", path


def _freeze(store: Path, path: Path, reporter: Reporter) -> None:
    """Write the documents as they stand, whole or not at all."""
    from index_data.storage.store import ReadOnlyStore

    aside = path.with_suffix(".writing")
    with closing(ReadOnlyStore(store)) as opened, aside.open("wb") as file:
        total, done = opened.count(), 0
        for batch in opened.scan():
            for document in batch:
                row = {"id": document.id, "title": document.title, "text": document.text}
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            done += len(batch)
            reporter.progress(min(done, total), total, "read the documents")
    aside.rename(path)


def _ids(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            yield row.get("id") or content_id(row["text"])
