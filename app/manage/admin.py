"""What the admin routes do: checks before a job is queued, generations, the sample. No HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from app.inference.indexer import Indexer
from app.inference.language_models import LanguageModels, report_of
from app.jobs import pretrain as pretrain_job
from app.jobs.reindex import activation_mode
from app.manage.documents import SAMPLE, delete_matching
from app.manage.report_page import page as render
from app.problems import Problem, invalid
from app.records.datasets import Dataset, DatasetBroken, Datasets
from app.records.keys import Keys, Scope
from app.records.registry import MANIFEST, Registry
from app.schemas import admin as bodies
from app.schemas.pretrain import SHAPE, LanguageModelBody, PretrainRequest
from app.training.labels import check_index
from app.training.tasks import TAKEN, TASKS
from index_data.filters import parse_filter
from index_data.generations.index import Index
from index_data.segment.manifest import GenerationCorrupt
from index_data.storage.store import DocumentStore
from index_data.text.analysis import ANALYZERS

INDEXED_WITHIN_S: Final = 60.0


def train_params(
    indexer: Indexer, datasets: Datasets, registry: Registry, body: bodies.TrainRequest
) -> dict[str, Any]:
    """The parameters of a training job.

    Raises ``validation`` at once where there is nothing to learn from or an option does not go
    with the task, ``not-found`` for an unknown base or dataset.
    """
    task, field = TASKS[body.task], head_of(body)
    if body.dataset is None:
        task.check_index(indexer.index.searcher, field)
    else:
        task.check_dataset(dataset_for(datasets, body.dataset, task.family))
    if body.base is not None:
        registry.find(body.base)
    version = registry.new_version(field)
    more = {"field": field, "k": body.retrieval.k, "version": version}
    return body.model_dump(exclude={"retrieval"}) | more


def pretrain_params(
    store: DocumentStore,
    datasets: Datasets,
    registry: Registry,
    language_models: LanguageModels,
    body: PretrainRequest,
) -> dict[str, Any]:
    """The parameters of a pre-training job.

    Raises ``validation`` for sizes that do not go together and where there is no text or no such
    model to start from, ``not-found`` for an unknown dataset.
    """
    if body.start is not None:
        if not (language_models.folder_of(body.start) / MANIFEST).is_file():
            raise invalid("#/start", f"there is no language model {body.start}")
        if shaped := [name for name in SHAPE if name in body.model_fields_set]:
            raise invalid(f"#/{shaped[0]}", f"comes with the model that start names ({body.start})")
    if body.dim % (2 * body.heads):
        raise invalid("#/heads", f"{body.dim} wide does not divide into {body.heads} even heads")
    if body.dataset is not None:
        dataset_for(datasets, body.dataset, pretrain_job.TYPE)
    elif not store.count():
        raise invalid("#/dataset", "there is no document in the index to learn from")
    return body.model_dump() | {"version": registry.new_version("language-model")}


def dataset_for(datasets: Datasets, name: str, task: str) -> Dataset:
    """An uploaded set for a task. Raises ``not-found``, and ``validation`` for another task's."""
    try:
        dataset = datasets.find(name)
    except DatasetBroken as broken:
        raise invalid("#/dataset", str(broken)) from broken
    if dataset.task != task:
        raise invalid("#/dataset", f"its rows ({dataset.kind}) are for the task {dataset.task}")
    return dataset


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


def reindex_params(indexer: Indexer, body: bodies.ReindexRequest) -> dict[str, Any]:
    """The parameters of a reindex. Raises ``validation`` for an analyzer that there is not."""
    if body.analyzer is not None and body.analyzer not in ANALYZERS:
        raise invalid("#/analyzer", f"there is no such analyzer; there are: {', '.join(ANALYZERS)}")
    mode = activation_mode(body.activate)
    if body.encoder is not None and mode == "never":
        raise invalid("#/activate", "another encoder goes live together with its generation")
    indexer.check_open()
    if (body.encoder is not None or body.analyzer is not None) and mode == "if_better":
        check_labels(indexer, body.field)
    return body.model_dump() | {"activate": mode}


def check_labels(indexer: Indexer, field: str) -> None:
    """Raise ``validation`` for a field with fewer than two labels in the index."""
    check_index(indexer.index.searcher, field)


def list_models(registry: Registry, language_models: LanguageModels) -> bodies.ModelList:
    """The checkpoints with the reports of their heads."""
    checkpoints = registry.checkpoints()
    return bodies.ModelList(
        models=[bodies.ModelBody.model_validate(info.to_json()) for info in checkpoints],
        active=registry.active,
        language_models=[
            LanguageModelBody(
                version=model.version,
                created=model.created,
                problem=model.problem,
                parameters=model.report.get("parameters"),
                tokens=model.tokens,
                metrics=model.report.get("metrics", {}),
            )
            for model in language_models.all()
        ],
    )


def remove_model(
    registry: Registry, language_models: LanguageModels, version: str, generator: str | None
) -> None:
    """Delete a checkpoint or a language model. ``generator``: that of the settings.

    Raises ``not-found`` and ``job-conflict``.
    """
    folder = language_models.folder / version
    if generator is not None and Path(generator).resolve() == folder.resolve():
        raise Problem("job-conflict", "The server writes with this one (FOOTNOTE_GENERATOR).")
    if not language_models.remove(version):
        registry.remove(version)


def model_report(
    registry: Registry, language_models: LanguageModels, version: str
) -> bodies.ModelReport:
    """What a checkpoint's heads did when they were trained, and whether it was promoted.

    A language model's report stands as that of a head. Raises ``not-found`` for what is not there
    (any more).
    """
    if (language := language_models.find(version)) is not None:
        return bodies.ModelReport(
            version=version,
            active=False,
            created=language.created,
            heads={"language model": report_of(language)},
            gate=None,
            job_id=None,
        )
    info = next((c for c in registry.checkpoints() if c.version == version), None)
    if info is None:
        raise Problem("not-found", "There is no checkpoint of this version; it may be deleted.")
    if info.problem is not None:
        raise Problem("validation", f"The checkpoint does not verify: {info.problem}")
    promotion = registry.decision(version)
    return bodies.ModelReport(
        version=version,
        active=info.active,
        created=info.about.get("created"),
        heads=info.about.get("heads", {}),
        gate=promotion,
        job_id=None if promotion is None else promotion.get("job_id"),
    )


def report_page(store: DocumentStore, report: bodies.ModelReport) -> str:
    """The report as a page, with the texts of documents as they stand now."""

    def text_of(name: str) -> str | None:
        document = store.get(name)
        return None if document is None else document.text

    return render(report, text_of)


def list_indexes(index: Index) -> bodies.IndexList:
    """The generations that are kept, the newest first."""
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


def activate_index(index: Index, generation: int) -> bodies.IndexActivated:
    """Serve another generation. Raises ``not-found``, or ``validation`` if it does not verify."""
    try:
        index.activate(generation)
    except KeyError:
        raise Problem("not-found", "There is no generation of this number.") from None
    except GenerationCorrupt as problem:
        raise Problem("validation", f"The generation does not verify: {problem}") from problem
    return bodies.IndexActivated.model_validate(index.searcher)


def delete_sample(store: DocumentStore, indexer: Indexer) -> bodies.SampleDeleted:
    """Delete the sample documents and wait until no search finds them."""
    indexer.check_open()
    deleted = delete_matching(store, parse_filter(SAMPLE))
    sequence = store.sequence
    indexer.after(sequence).result(timeout=INDEXED_WITHIN_S)
    return bodies.SampleDeleted(deleted=deleted, sequence=sequence)


def add_key(keys: Keys, body: bodies.KeyRequest) -> bodies.KeyMade:
    """A new key. Raises ``validation`` for a first key with which nobody would be admin."""
    if keys.open and body.scope != "admin":
        raise invalid(
            "#/scope", "the first key closes the server to all others: make it an admin's"
        )
    made = keys.add(Scope.named(body.scope), name=body.name)
    return bodies.KeyMade(key=made, scope=body.scope)


def revoke_key(keys: Keys, key_id: str) -> bodies.KeyBody:
    """Remove a key. Raises ``not-found``."""
    try:
        info = keys.revoke(key_id)
    except KeyError:
        raise Problem("not-found", "Not exactly one stored key has an id that starts so.") from None
    return bodies.KeyBody.model_validate(info)
