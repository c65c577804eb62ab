"""Putting a checkpoint in use: first loaded and warmed up, then written down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from app.inference.snapshot import ModelInfo
from app.problems import Problem
from app.records.registry import NO_CHECKPOINT, Registry

Load = Callable[[str, Path | None], ModelInfo]


class Activation:
    """The one way by which the model that serves changes; ``load`` swaps a version in, or raises.

    One change at a time, so that what serves and what is written down cannot come apart.
    """

    def __init__(self, registry: Registry, load: Load) -> None:
        self._registry = registry
        self._load = load
        self._lock = threading.Lock()

    def activate(self, version: str) -> ModelInfo:
        """Serve a version. Raises ``not-found``, or ``validation`` when it does not load."""
        with self._lock:
            info = self._swap(version)
            self._registry.set_active(version)
            return info

    def rollback(self) -> ModelInfo:
        """Serve what served before. Raises ``job-conflict`` when nothing did."""
        with self._lock:
            info = self._swap(self._registry.previous())
            self._registry.set_rolled_back()
            return info

    def _swap(self, version: str) -> ModelInfo:
        from model.folders import CheckpointRefused  # brings torch along, which serves by now

        folder = None if version == NO_CHECKPOINT else self._registry.find(version)
        try:
            return self._load(version, folder)
        except CheckpointRefused as refused:
            raise Problem("validation", f"The checkpoint does not load: {refused}") from refused
