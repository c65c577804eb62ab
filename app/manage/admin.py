"""What the admin routes do: checks before a job is queued, generations, the sample. No HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from app.inference.language_models import LanguageModel, report_of
from app.jobs import pretrain as pretrain_job
from app.jobs import reindex as indexing_job
from app.manage.report_page import page as render
from app.problems import Problem, invalid
from app.records.datasets import Dataset, DatasetBroken
from app.records.keys import Scope
from app.records.registry import MANIFEST
from app.schemas import admin as bodies
from app.schemas.pretrain import SHAPE, LanguageModelBody, PretrainRequest
from app.state import Footnote
from app.training.labels import check_index
from app.training.tasks import TAKEN, TASKS
from index_data.filters import parse_filter
from index_data.segment.manifest import GenerationCorrupt
from index_data.text.analysis import ANALYZERS

SAMPLE: Final = {"metadata.source": "sample"}
DELETED_AT_ONCE: Final = 500
INDEXED_WITHIN_S: Final = 60.0


def train_params(footnote: Footnote, body: bodies.TrainRequest) -> dict[str, Any]:
    """The parameters of a training job.

    Raises ``validation`` at once where there is nothing to learn from or an option does not go
    with the task, ``not-found`` for an unknown base or dataset.
    """
    field = head_of(body)
    check_learnable(footnote, body, field)
    if body.base is not None:
        footnote.registry.find(body.base)
    return {
        "task": body.task,
        "field": field,
        "dataset": body.dataset,
        "base": body.base,
        "optimizer": body.optimizer,
        "lr": body.lr,
        "epochs": body.epochs,
        "batch_size": body.batch_size,
        "seed": body.seed,
        "k": body.retrieval.k,
        "holdout": body.holdout,
        "activate": body.activate,
        "margin": body.margin,
        "version": footnote.registry.new_version(field),
    }


def pretrain_params(footnote: Footnote, body: PretrainRequest) -> dict[str, Any]:
    """The parameters of a pre-training job.

    Raises ``validation`` for sizes that do not go together and where there is no text or no such
    model to start from, ``not-found`` for an unknown dataset.
    """
    if body.start is not None:
        if not (footnote.language_models.folder_of(body.start) / MANIFEST).is_file():
            raise invalid("#/start", f"there is no language model {body.start}")
        given = body.model_dump(by_alias=True, exclude_unset=True)
        if shaped := [name for name in SHAPE if name in given]:
            raise invalid(f"#/{shaped[0]}", f"comes with the model that start names ({body.start})")
    if body.dim % (2 * body.heads):
        raise invalid("#/heads", f"{body.dim} wide does not divide into {body.heads} even heads")
    if body.memory == "copy" and not body.copy_head:
        raise invalid("#/copy", "memory copy is the copy head: name another memory without it")
    if body.dataset is None:
        if not footnote.store.count():
            raise invalid("#/dataset", "there is no document in the index to learn from")
    else:
        dataset_for(footnote, body.dataset, pretrain_job.TYPE)
    version = footnote.registry.new_version("language-model")
    return body.model_dump(by_alias=True) | {"version": version}


def dataset_for(footnote: Footnote, name: str, task: str) -> Dataset:
    """An uploaded set for a task. Raises ``not-found``, and ``validation`` for another task's."""
    try:
        found = footnote.datasets.find(name)
    except DatasetBroken as broken:
        raise invalid("#/dataset", str(broken)) from broken
    if found.task != task:
        raise invalid("#/dataset", f"its rows ({found.kind}) are for the task {found.task}")
    return found


def head_of(body: bodies.TrainRequest) -> str:
    """The name of the head to train: a label field, or the task's own. Raises ``validation``."""
    task = TASKS[body.task]
    if body.field is None:
        return task.head
    if not task.fields:
        raise invalid("#/field", f"names a label field; the task {body.task} learns none")
    if body.field in TAKEN:
        raise invalid("#/field", f"the head of this name is that of the task {body.field}")
    return body.field


def check_learnable(footnote: Footnote, body: bodies.TrainRequest, field: str) -> None:
    """Refuse an index with nothing to learn from, or a dataset that is for another task."""
    task = TASKS[body.task]
    if body.dataset is None:
        task.check_index(footnote.open_index().searcher, field)
        return
    task.check_dataset(dataset_for(footnote, body.dataset, task.family))


def evaluate_params(footnote: Footnote, body: bodies.EvaluateRequest) -> dict[str, Any]:
    """The parameters of an evaluation. Raises ``validation`` where there are no labels."""
    check_labels(footnote, body.field)
    return {"field": body.field, "limit": body.limit, "k": body.k, "held_out": body.held_out}


def reindex_params(footnote: Footnote, body: bodies.ReindexRequest) -> dict[str, Any]:
    """The parameters of a reindex. Raises ``validation`` for an analyzer that there is not."""
    if body.analyzer is not None and body.analyzer not in ANALYZERS:
        raise invalid("#/analyzer", f"there is no such analyzer; there are: {', '.join(ANALYZERS)}")
    wish = indexing_job.wish_of(body.activate)
    if body.encoder is not None and wish == "never":
        raise invalid("#/activate", "another encoder goes live together with its generation")
    footnote.open_index()
    if (body.encoder is not None or body.analyzer is not None) and wish == "if_better":
        check_labels(footnote, body.field)
    return {
        "mode": body.mode,
        "activate": wish,
        "analyzer": body.analyzer,
        "encoder": body.encoder,
        "field": body.field,
        "margin": body.margin,
    }


def check_labels(footnote: Footnote, field: str) -> None:
    """Refuse a field with fewer than two labels in the index."""
    check_index(footnote.open_index().searcher, field)


def list_models(footnote: Footnote) -> bodies.ModelList:
    """The checkpoints with the reports of their heads."""
    found = footnote.registry.checkpoints()
    return bodies.ModelList(
        models=[bodies.ModelBody.model_validate(info.to_json()) for info in found],
        active=footnote.registry.active,
        language_models=[_language_model(model) for model in footnote.language_models.all()],
    )


def _language_model(model: LanguageModel) -> LanguageModelBody:
    return LanguageModelBody(
        version=model.version,
        created=model.created,
        problem=model.problem,
        parameters=model.report.get("parameters"),
        tokens=model.tokens,
        metrics=model.report.get("metrics", {}),
    )


def remove_model(footnote: Footnote, version: str) -> None:
    """Delete a checkpoint or a language model. Raises ``not-found`` and ``job-conflict``."""
    generator = footnote.settings.generator
    folder = footnote.language_models.folder / version
    if generator is not None and Path(generator).resolve() == folder.resolve():
        raise Problem("job-conflict", "The server writes with this one (FOOTNOTE_GENERATOR).")
    if not footnote.language_models.remove(version):
        footnote.registry.remove(version)


def model_report(footnote: Footnote, version: str) -> bodies.ModelReport:
    """What a checkpoint's heads did when they were trained, and what the gate decided.

    A language model's report stands as that of a head. Raises ``not-found`` for what is not there
    (any more).
    """
    if (language := footnote.language_models.find(version)) is not None:
        heads = {"language model": report_of(language)}
        return bodies.ModelReport(
            version=version,
            active=False,
            created=language.created,
            heads=heads,
            gate=None,
            job_id=None,
        )
    info = next((c for c in footnote.registry.checkpoints() if c.version == version), None)
    if info is None:
        raise Problem("not-found", "There is no checkpoint of this version; it may be deleted.")
    if info.problem is not None:
        raise Problem("validation", f"The checkpoint does not verify: {info.problem}")
    gate = footnote.registry.decision(version)
    return bodies.ModelReport(
        version=version,
        active=info.active,
        created=info.about.get("created"),
        heads=info.about.get("heads", {}),
        gate=gate,
        job_id=None if gate is None else gate.get("job_id"),
    )


def report_page(footnote: Footnote, report: bodies.ModelReport) -> str:
    """The report as a page, with the texts of documents as they stand now."""

    def text_of(name: str) -> str | None:
        document = footnote.store.get(name)
        return None if document is None else document.text

    return render(report, text_of)


def list_indexes(footnote: Footnote) -> bodies.IndexList:
    """The generations that are kept, the newest first."""
    index = footnote.open_index()
    return bodies.IndexList(
        indexes=[
            bodies.IndexBody(
                generation=info.number,
                active=info.active,
                sequence=info.sequence,
                documents=info.documents,
                passages=info.passages,
                vectors=info.encoder_sha is not None,
                analyzer=info.analyzer,
                created=info.created,
                problem=info.problem,
            )
            for info in index.generations()
        ],
        generation=index.searcher.generation,
        sequence=index.searcher.sequence,
    )


def activate_index(footnote: Footnote, generation: int) -> bodies.IndexActivated:
    """Serve another generation. Raises ``not-found``, or ``validation`` if it does not verify."""
    index = footnote.open_index()
    try:
        index.activate(generation)
    except KeyError:
        raise Problem("not-found", "There is no generation of this number.") from None
    except GenerationCorrupt as problem:
        raise Problem("validation", f"The generation does not verify: {problem}") from problem
    searcher = index.searcher
    return bodies.IndexActivated(generation=searcher.generation, sequence=searcher.sequence)


def delete_sample(footnote: Footnote) -> bodies.SampleDeleted:
    """Delete the sample documents and wait until no search finds them."""
    indexer = footnote.open_indexer()
    wanted = parse_filter(SAMPLE)
    deleted, sequence, cursor = 0, footnote.store.sequence, None
    while True:
        page, cursor = footnote.store.list(cursor=cursor, limit=DELETED_AT_ONCE, where=wanted)
        if page:
            result = footnote.store.delete([document.id for document in page]).result()
            deleted, sequence = deleted + result.deleted, result.sequence
            indexer.notify()
        if cursor is None:
            break
    indexer.after(sequence).result(timeout=INDEXED_WITHIN_S)
    return bodies.SampleDeleted(deleted=deleted, sequence=sequence)


def list_keys(footnote: Footnote) -> bodies.KeyList:
    """The keys by their digests."""
    found = [bodies.KeyBody.model_validate(info.to_json()) for info in footnote.keys.list()]
    return bodies.KeyList(keys=found, open=footnote.keys.open)


def add_key(footnote: Footnote, body: bodies.KeyRequest) -> bodies.KeyMade:
    """A new key. Raises ``validation`` for a first key with which nobody would be admin."""
    if footnote.keys.open and body.scope != "admin":
        raise invalid(
            "#/scope", "the first key closes the server to all others: make it an admin's"
        )
    made = footnote.keys.add(Scope.named(body.scope), name=body.name)
    return bodies.KeyMade(key=made, scope=body.scope)


def revoke_key(footnote: Footnote, key_id: str) -> bodies.KeyBody:
    """Remove a key. Raises ``not-found``."""
    try:
        info = footnote.keys.revoke(key_id)
    except KeyError:
        raise Problem("not-found", "Not exactly one stored key has an id that starts so.") from None
    return bodies.KeyBody.model_validate(info.to_json())
