"""The jobs that a server can do, by type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.inference.activation import Activation
from app.inference.indexer import Indexer
from app.jobs import audit, evaluate, pretrain, reindex, reindex_promotion, train
from app.jobs.job import Job, JobKind
from app.records.audits import Audits
from app.records.encoders import EncoderChoice
from app.records.registry import Registry
from app.settings import Settings


def job_kinds(
    settings: Settings,
    *,
    registry: Registry,
    encoders: EncoderChoice,
    audits: Audits,
    activation: Activation,
    indexer: Indexer,
    published: Callable[[list[str]], None],
) -> dict[str, JobKind]:
    """Every type of job with what it needs of the server.

    ``published`` is called when a new generation serves, with the ids of damaged documents.
    """
    kinds = {
        train.TYPE: train.kind(settings, registry, activation.activate),
        reindex.TYPE: reindex.kind(
            settings, indexer, published, activation.change_encoder, reindex_promotion.decide
        ),
        evaluate.TYPE: evaluate.kind(settings, registry),
        pretrain.TYPE: pretrain.kind(settings),
        audit.TYPE: audit.kind(settings, audits),
    }
    return {name: _with_encoder(kind, encoders) for name, kind in kinds.items()}


def _with_encoder(kind: JobKind, encoders: EncoderChoice) -> JobKind:
    """The kind with the encoder that serves when the job begins, where it needs one."""

    def prepare(job: Job) -> dict[str, Any]:
        params = kind.prepare(job)
        return params | {"_encoder": encoders.source} if "_encoder" in params else params

    return replace(kind, prepare=prepare)
