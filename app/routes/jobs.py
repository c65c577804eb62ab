"""``/admin/jobs``: what runs in the background, watched and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Path
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from app.jobs.job import FINISHED
from app.records.keys import scope
from app.routes.admin import answer, job_answer
from app.schemas import admin as bodies
from app.web.http import State, answers

router = APIRouter(prefix="/admin/jobs", tags=["admin"])
ADMIN = [Depends(scope("admin"))]
PING_S = 15
JobId = Annotated[str, Path(max_length=64)]


@router.get("", summary="List the jobs", dependencies=ADMIN, responses=answers(bodies.JobList))
async def jobs(footnote: State) -> Response:
    """The newest first."""
    found = [bodies.JobBody.model_validate(job.to_json()) for job in footnote.jobs.all()]
    return answer(bodies.JobList(jobs=found))


@router.get(
    "/{job_id}",
    summary="Look at a job",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, "not-found"),
)
async def job(job_id: JobId, footnote: State) -> Response:
    """As it stands now."""
    return answer(bodies.JobBody.model_validate(footnote.jobs.get(job_id).to_json()))


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, "not-found"),
)
async def cancel(job_id: JobId, footnote: State) -> Response:
    """A running one stops within seconds; one that is finished stays what it was."""
    cancelled = await asyncio.to_thread(footnote.jobs.cancel, job_id)
    return answer(bodies.JobBody.model_validate(cancelled.to_json()))


@router.post(
    "/{job_id}/resume",
    summary="Resume a job",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, "not-found", "job-conflict", status=202),
)
async def resume(job_id: JobId, footnote: State) -> Response:
    """Queue a job again that failed, was cancelled or interrupted; training goes on as it was."""
    return job_answer(await asyncio.to_thread(footnote.jobs.resume, job_id))


@router.get(
    "/{job_id}/events",
    summary="Watch a job",
    dependencies=ADMIN,
    response_class=EventSourceResponse,
    responses=answers(None, "not-found"),
)
async def events(job_id: JobId, footnote: State) -> EventSourceResponse:
    """Server-Sent Events, each with the whole job: `progress` on every change, then `done`."""
    footnote.jobs.get(job_id)  # not-found before the stream begins

    async def stream() -> AsyncIterator[ServerSentEvent]:
        async for job in footnote.jobs.watch(job_id):
            name = "done" if job.state in FINISHED else "progress"
            yield ServerSentEvent(orjson.dumps(job.to_json()).decode(), event=name)

    return EventSourceResponse(stream(), ping=PING_S)
