"""``/admin``: training, reindexing, measuring; checkpoints, generations, keys, the sample."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from app.jobs import evaluate as evaluation_job
from app.jobs import pretrain as pretrain_job
from app.jobs import reindex as indexing_job
from app.jobs import train as training_job
from app.jobs.job import Job
from app.manage import admin as admin_service
from app.manage import report_page
from app.problems import Slug
from app.records.keys import scope
from app.schemas import admin as bodies
from app.schemas.pretrain import PretrainRequest
from app.web.body import JsonRoute, examples
from app.web.http import BODY_REFUSALS, State, answers, json_answer

router = APIRouter(prefix="/admin", tags=["admin"], route_class=JsonRoute)
ADMIN = [Depends(scope("admin"))]
REFUSALS: tuple[Slug, ...] = (*BODY_REFUSALS, "queue-full", "not-ready", "insufficient-storage")
TRAIN = {
    "the labels of the index": {"task": "classification", "field": "label"},
    "sentiment, SGD": {"task": "sentiment", "optimizer": "sgd", "activate": "never"},
    "entities of the index": {"task": "ner", "epochs": 4, "retrieval": {"k": 24}},
    "questions of a dataset": {
        "task": "qa",
        "dataset": "ds_0123456789abcdef01234567",
        "epochs": 4,
        "batch_size": 16,
        "lr": 0.001,
        "holdout": 0.1,
        "activate": "if_better",
        "margin": 0.0,
    },
}
Train = Annotated[bodies.TrainRequest, examples(TRAIN)]
PRETRAIN = {
    "the documents of the index": {"tokens": 200_000, "dim": 128, "layers": 2, "vocab": 2048},
    "SGD": {"optimizer": "sgd", "tokens": 100_000},
}
Pretrain = Annotated[PretrainRequest, examples(PRETRAIN)]
KEYS = {
    "an admin": {"scope": "admin", "name": "operator"},
    "a reader": {"scope": "predict", "name": "shop"},
}
NewKey = Annotated[bodies.KeyRequest, examples(KEYS)]
Reindex = Annotated[bodies.ReindexRequest, examples({"all": {"mode": "full"}})]
Evaluate = Annotated[bodies.EvaluateRequest, examples({"held-out tickets": {"field": "label"}})]
Version = Annotated[str, Path(max_length=128)]
KeyId = Annotated[str, Path(max_length=64)]
REPORT_FORMAT = "A page, or JSON. Left out, a browser gets the page."
PAGE_HEADERS = {
    "Content-Security-Policy": report_page.POLICY,
    "Cache-Control": "no-store",
    "Vary": "Accept",
}
Generation = Annotated[int, Path(ge=1, le=10**9)]


def job_answer(job: Job) -> Response:
    """A job that was queued, with the address to watch it at."""
    body = bodies.JobBody.model_validate(job.to_json())
    return json_answer(body.model_dump(), 202, {"Location": f"/admin/jobs/{job.id}"})


def describe_html(described: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """A route's answers, of which the good one can be a page too."""
    page = {"text/html": {"schema": {"type": "string"}}}
    return {**described, 200: {**described[200], "content": page}}


def answer(body: BaseModel, status: int = 200) -> Response:
    """An answer from its model."""
    return json_answer(body.model_dump(), status)


@router.post(
    "/train",
    summary="Train a head",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, *REFUSALS, "not-found", status=202, text="It is queued."),
)
async def train(body: Train, footnote: State) -> Response:
    """Learn from labelled documents or an uploaded set; the server goes on serving meanwhile.

    `classification` and `sentiment` learn a label field, `ner` named entities, `qa` to answer
    questions (from a dataset only). With `if_better` the new head is put in use when it beats, on
    held-out rows, the head that serves, or where there is none the neighbours alone (for `qa` the
    closed book), by the task's own figure: accuracy, F1 of whole entities, F1 of answers.
    """
    params = admin_service.train_params(
        footnote.indexer, footnote.datasets, footnote.registry, body
    )
    return job_answer(await asyncio.to_thread(footnote.jobs.submit, training_job.TYPE, params))


@router.post(
    "/pretrain",
    summary="Pre-train a language model",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, *REFUSALS, "not-found", status=202, text="It is queued."),
)
async def pretrain(body: Pretrain, footnote: State) -> Response:
    """From nothing, on an uploaded set of texts or the index's documents, retrieval in the loop.

    What `footnote pretrain` does, with its names and defaults; a job that was cancelled or
    interrupted goes on where it stopped. The model is kept beside the checkpoints and listed with
    them; it serves nothing by itself.
    """
    params = admin_service.pretrain_params(
        footnote.store, footnote.datasets, footnote.registry, footnote.language_models, body
    )
    return job_answer(await asyncio.to_thread(footnote.jobs.submit, pretrain_job.TYPE, params))


@router.post(
    "/reindex",
    summary="Build a new index generation",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, *REFUSALS, status=202, text="It is queued."),
)
async def reindex(body: Reindex, footnote: State) -> Response:
    """The old generation serves until the new one is whole. Unchanged vectors are taken over."""
    params = admin_service.reindex_params(footnote.indexer, body)
    return job_answer(await asyncio.to_thread(footnote.jobs.submit, indexing_job.TYPE, params))


@router.post(
    "/evaluate",
    summary="Measure what serves",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, *REFUSALS, status=202, text="It is queued."),
)
async def evaluate(body: Evaluate, footnote: State) -> Response:
    """With retrieval, without, and the neighbours alone, on rows that the head did not see."""
    params = admin_service.evaluate_params(footnote.indexer, body)
    return job_answer(await asyncio.to_thread(footnote.jobs.submit, evaluation_job.TYPE, params))


@router.get(
    "/models",
    summary="List the checkpoints",
    dependencies=ADMIN,
    responses=answers(bodies.ModelList),
)
async def models(footnote: State) -> Response:
    """Each with the reports of its heads: data, metrics with and without retrieval, curve."""
    listed = await asyncio.to_thread(
        admin_service.list_models, footnote.registry, footnote.language_models
    )
    return answer(listed)


@router.post(
    "/models/rollback",
    summary="Serve the checkpoint that served before",
    dependencies=ADMIN,
    responses=answers(bodies.Activated, "job-conflict", "validation"),
)
async def rollback(footnote: State) -> Response:
    """As it was before the last activation."""
    info = await asyncio.to_thread(footnote.activation.rollback)
    return answer(bodies.Activated(version=info.version, sha256=info.sha256))


@router.post(
    "/models/{version}/activate",
    summary="Serve a checkpoint",
    dependencies=ADMIN,
    responses=answers(bodies.Activated, "not-found", "validation"),
)
async def activate_model(version: Version, footnote: State) -> Response:
    """Loaded and warmed up beside the one that serves, then swapped in whole."""
    info = await asyncio.to_thread(footnote.activation.activate, version)
    return answer(bodies.Activated(version=info.version, sha256=info.sha256))


@router.get(
    "/models/{version}/report",
    summary="Read the report of a checkpoint",
    dependencies=ADMIN,
    responses=describe_html(answers(bodies.ModelReport, "not-found", "validation")),
)
async def model_report(
    request: Request,
    version: Version,
    footnote: State,
    format: Annotated[Literal["json", "html"] | None, Query(description=REPORT_FORMAT)] = None,
) -> Response:
    """Metrics by view and label, confusion, calibration, curve, worst mistakes; the gate's word."""
    report = await asyncio.to_thread(
        admin_service.model_report, footnote.registry, footnote.language_models, version
    )
    if format == "html" or (format is None and "text/html" in request.headers.get("accept", "")):
        shown = await asyncio.to_thread(admin_service.report_page, footnote.store, report)
        return HTMLResponse(shown, headers=PAGE_HEADERS)
    return answer(report)


@router.delete(
    "/models/{version}",
    summary="Delete a checkpoint",
    dependencies=ADMIN,
    responses=answers(bodies.ModelDeleted, "not-found", "job-conflict"),
)
async def delete_model(version: Version, footnote: State) -> Response:
    """For good; never the one that serves."""
    await asyncio.to_thread(
        admin_service.remove_model,
        footnote.registry,
        footnote.language_models,
        footnote.settings.generator,
        version,
    )
    return answer(bodies.ModelDeleted(version=version))


@router.get(
    "/indexes",
    summary="List the index generations",
    dependencies=ADMIN,
    responses=answers(bodies.IndexList, "not-ready"),
)
async def indexes(footnote: State) -> Response:
    """Those that are kept, the newest first."""
    return answer(await asyncio.to_thread(admin_service.list_indexes, footnote.open_index()))


@router.post(
    "/indexes/{generation}/activate",
    summary="Serve another generation",
    dependencies=ADMIN,
    responses=answers(bodies.IndexActivated, "not-found", "not-ready", "validation"),
)
async def activate_index(generation: Generation, footnote: State) -> Response:
    """It is brought up to the last write before it serves."""
    index = footnote.open_index()
    return answer(await asyncio.to_thread(admin_service.activate_index, index, generation))


@router.delete(
    "/sample",
    summary="Take the sample out",
    dependencies=ADMIN,
    responses=answers(bodies.SampleDeleted, "not-ready", "insufficient-storage"),
)
async def delete_sample(footnote: State) -> Response:
    """Every document with `metadata.source` = `sample`."""
    deleted = await asyncio.to_thread(admin_service.delete_sample, footnote.store, footnote.indexer)
    return answer(deleted)


@router.get("/keys", summary="List the keys", dependencies=ADMIN, responses=answers(bodies.KeyList))
async def keys(footnote: State) -> Response:
    """Each by the digest of it; never the key."""
    return answer(admin_service.list_keys(footnote.keys))


@router.post(
    "/keys",
    summary="Make a key",
    dependencies=ADMIN,
    responses=answers(
        bodies.KeyMade, *REFUSALS, status=201, text="The key; it is not shown again."
    ),
)
async def add_key(body: NewKey, footnote: State) -> Response:
    """Only its digest is kept. On a server without keys the first one closes it to all others."""
    return answer(await asyncio.to_thread(admin_service.add_key, footnote.keys, body), 201)


@router.delete(
    "/keys/{key_id}",
    summary="Take a key away",
    dependencies=ADMIN,
    responses=answers(bodies.KeyBody, "not-found"),
)
async def revoke_key(key_id: KeyId, footnote: State) -> Response:
    """By its id, or the first 8 or more characters of it. Keys of the environment stay."""
    return answer(await asyncio.to_thread(admin_service.revoke_key, footnote.keys, key_id))
