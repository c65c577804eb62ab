"""The jobs that a server can do, by type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app import evaluation_job, indexing_job, training_job
from app.activation import Activation
from app.jobs import JobKind
from app.registry import Registry
from app.settings import Settings

if TYPE_CHECKING:
    from index_data.index import Index


def job_kinds(
    settings: Settings,
    registry: Registry,
    activation: Activation,
    index: Callable[[], Index],
    published: Callable[[], None] = lambda: None,
) -> dict[str, JobKind]:
    """Every type of job with what it needs of the server.

    ``index`` gives the open index; ``published`` is called when a new generation serves.
    """

    def activate(version: str) -> None:
        activation.activate(version)

    return {
        training_job.TYPE: training_job.kind(settings, registry, activate),
        indexing_job.TYPE: indexing_job.kind(settings, index, published),
        evaluation_job.TYPE: evaluation_job.kind(settings, registry),
    }
