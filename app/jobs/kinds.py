"""The jobs that a server can do, by type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.inference.activation import Activation
from app.jobs import audit as audit_job
from app.jobs import evaluate as evaluation_job
from app.jobs import pretrain as pretrain_job
from app.jobs import reindex as indexing_job
from app.jobs import reindex_promotion as reindex_gate
from app.jobs import train as training_job
from app.jobs.job import Job, JobKind
from app.records.audits import Audits
from app.records.registry import Registry
from app.settings import Settings

if TYPE_CHECKING:
    from index_data.generations.index import Index


def job_kinds(
    settings: Settings,
    registry: Registry,
    activation: Activation,
    index: Callable[[], Index],
    published: Callable[[list[str]], None] = lambda damaged: None,
    encoder: Callable[[], str | None] | None = None,
    change_encoder: Callable[[Path, str | None], None] | None = None,
    audits: Audits | None = None,
) -> dict[str, JobKind]:
    """Every type of job with what it needs of the server.

    ``index`` gives the open index; ``published`` is called when a new generation serves;
    ``encoder`` names the encoder that serves when a job begins; ``audits`` keeps what an
    audit found.
    """

    def activate(version: str) -> None:
        activation.activate(version)

    kinds = {
        training_job.TYPE: training_job.kind(settings, registry, activate),
        indexing_job.TYPE: indexing_job.kind(
            settings, index, published, change_encoder, reindex_gate.decide
        ),
        evaluation_job.TYPE: evaluation_job.kind(settings, registry),
        pretrain_job.TYPE: pretrain_job.kind(settings),
    }
    if audits is not None:
        kinds[audit_job.TYPE] = audit_job.kind(settings, audits)
    if encoder is None:
        return kinds
    return {name: _over(kind, encoder) for name, kind in kinds.items()}


def _over(kind: JobKind, encoder: Callable[[], str | None]) -> JobKind:
    """The kind with the encoder that serves when the job begins, where it needs one."""

    def prepare(job: Job) -> dict[str, Any]:
        params = kind.prepare(job)
        return params | {"_encoder": encoder()} if "_encoder" in params else params

    return replace(kind, prepare=prepare)
