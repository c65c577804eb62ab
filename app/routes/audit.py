"""``/admin/audit-labels``: labels that are probably wrong, to be corrected or dismissed."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from app.jobs import audit as audit_job
from app.manage import audits as audit_service
from app.records.keys import scope
from app.routes.admin import REFUSALS, answer, job_answer
from app.schemas import admin as bodies
from app.web.body import JsonRoute, examples
from app.web.http import State, answers

router = APIRouter(prefix="/admin/audit-labels", tags=["admin"], route_class=JsonRoute)
ADMIN = [Depends(scope("admin"))]
Audit = Annotated[bodies.AuditRequest, examples({"tickets": {"field": "label", "limit": 100}})]
Decision = Annotated[
    bodies.AuditDecision, examples({"nothing yet": {"correct": [], "dismiss": []}})
]
AuditId = Annotated[str, Path(max_length=64)]


@router.post(
    "",
    summary="Look for wrong labels",
    dependencies=ADMIN,
    responses=answers(bodies.JobBody, *REFUSALS, status=202, text="It is queued."),
)
async def audit(body: Audit, footnote: State) -> Response:
    """Documents whose neighbours and a head that has not seen them contradict their label."""
    params = audit_service.params(footnote.indexer, body)
    return job_answer(await asyncio.to_thread(footnote.jobs.submit, audit_job.TYPE, params))


@router.get(
    "/{audit_id}",
    summary="Read what an audit found",
    dependencies=ADMIN,
    responses=answers(bodies.AuditPage, "not-found", "job-conflict", "validation"),
)
async def findings(
    audit_id: AuditId,
    footnote: State,
    offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Worst first, with the texts and labels as they stand now. The id is that of the job."""
    page = await asyncio.to_thread(
        audit_service.page,
        footnote.jobs,
        footnote.audits,
        footnote.store,
        audit_id,
        offset=offset,
        limit=limit,
    )
    return answer(page)


@router.post(
    "/{audit_id}",
    summary="Correct or dismiss findings",
    dependencies=ADMIN,
    responses=answers(bodies.AuditDecided, *REFUSALS, "not-found", "job-conflict"),
)
async def decide(audit_id: AuditId, body: Decision, footnote: State) -> Response:
    """A correction counts from the next request on; what is dismissed is not shown again."""
    decided = await audit_service.decide(
        footnote.jobs, footnote.audits, footnote.indexer, footnote.store, audit_id, body
    )
    return answer(decided)
