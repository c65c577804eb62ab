"""``/health``, ``/version`` and ``/metrics``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.metrics import CONTENT_TYPE
from app.problems import Problem
from app.records.keys import scope
from app.web.http import State, json_answer, refusals

router = APIRouter(tags=["operations"])
OPEN = [Depends(scope("open"))]


@router.get("/health/live", summary="Is the process alive", dependencies=OPEN)
async def live() -> Response:
    """Always 200 while the process can answer at all."""
    return json_answer({"status": "live"})


@router.get(
    "/health/ready",
    summary="Does it serve",
    dependencies=OPEN,
    responses=refusals("not-ready"),
)
async def ready(footnote: State) -> Response:
    """200 when it serves; `degraded` names what did not load. Before that 503 with the stage."""
    status = footnote.status
    degraded = footnote.degraded()
    if status.ready:
        return json_answer({"status": "degraded" if degraded else "ready", "degraded": degraded})
    raise Problem(
        "not-ready",
        f"{status.stage}. {status.detail}".strip(),
        retry_after=1,
        more={"stage": status.stage, "failed": status.failed, "degraded": degraded[:4]},
    )


@router.get("/version", summary="What serves", dependencies=[Depends(scope("predict"))])
async def what_serves(footnote: State) -> Response:
    """The versions of code, model and index, and the settings that are no secrets."""
    snapshot = footnote.snapshot()
    serving = snapshot.serving
    heads = {} if serving is None else serving.model.heads
    analyzer = None if snapshot.searcher is None else snapshot.searcher.analyzer.name
    return json_answer(
        {
            "version": code_version(),
            "model": None if serving is None else serving.model.to_json(),
            "generator": snapshot.generator_json(),
            "heads": {f: {"task": h.task, "labels": list(h.labels)} for f, h in heads.items()},
            "index": snapshot.index_json() | {"analyzer": analyzer},
            "retrieval_brought": footnote.ablations.to_json(),
            "settings": footnote.settings.public() | {"encoder": footnote.encoders.source},
        }
    )


@router.get("/metrics", summary="Counters for Prometheus", dependencies=[Depends(scope("admin"))])
async def metrics(footnote: State) -> Response:
    """Counters and latencies in Prometheus' text format."""
    return Response(footnote.metrics.text(), media_type=CONTENT_TYPE)


def code_version() -> str:
    """The version of the installed distribution; of a bare checkout, that it is one."""
    try:
        return version("footnote")
    except PackageNotFoundError:
        return "checkout"
