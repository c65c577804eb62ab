"""Older states to answer from: the index as it was, and checkpoints that no longer serve.

A searcher is immutable and shares its segments with those before and after it, so the states that
the last answers came from are simply held, ``FOOTNOTE_KEEP_SNAPSHOTS`` of them. A checkpoint is a
folder, so one that is still there is loaded beside the one that serves when it is asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from app.inference.snapshot import Serving, Snapshot
from app.problems import Problem
from app.records.registry import Registry
from index_data.search.searcher import Searcher

Gone = Literal["model", "index", "documents"]
Load = Callable[[str, Path | None, Serving], Serving]


def unavailable(gone: Gone, detail: str) -> Problem:
    """The problem ``pin-unavailable``, which says what is gone."""
    return Problem("pin-unavailable", detail, more={"gone": [gone]})


class Pins:
    """The states of one server that are retained. ``load``: a checkpoint beside what serves."""

    def __init__(self, *, keep: int, registry: Registry, load: Load) -> None:
        self._registry = registry
        self._load = load
        self._searchers: deque[Searcher] = deque(maxlen=keep)
        self._floor = 0
        self._loaded: Serving | None = None
        self._lock = threading.Lock()

    def note(self, searcher: Searcher | None) -> None:
        """Keep the state that an answer comes from; the one that answered longest ago goes."""
        if searcher is None or (self._searchers and self._searchers[-1] is searcher):
            return
        if searcher.sequence < self._floor:
            return
        if searcher in self._searchers:
            self._searchers.remove(searcher)
        self._searchers.append(searcher)

    def searchers(self) -> list[Searcher]:
        """The states that are retained, the newest first."""
        return list(self._searchers)[::-1]

    def forget(self, before: int) -> int:
        """Keep no state from before a write, which erased something: how many there were."""
        self._floor, count = max(before, self._floor), len(self._searchers)
        self._searchers.clear()
        return count

    def close(self) -> None:
        """End the model that was loaded beside the one that serves."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.engine.retire()
            loaded.engine.join(timeout=10)

    async def snapshot(self, now: Snapshot, sha256: str | None, sequence: int | None) -> Snapshot:
        """What a pinned request answers from; ``None`` is what serves.

        Raises ``pin-unavailable`` and says whether the model or the index is gone.
        """
        pinned = now
        if sequence is not None and sequence != now.index().sequence:
            pinned = replace(pinned, searcher=self._at(sequence))
        if sha256 is not None and sha256 != now.model().model.sha256:
            serving = await asyncio.to_thread(self.serving, now.model(), sha256)
            pinned = replace(pinned, serving=serving)
        made_by = pinned.searcher and pinned.searcher.encoder_sha
        if pinned.serving is None or made_by in (None, pinned.serving.model.encoder_sha256):
            return pinned
        raise unavailable("index", "The index at that sequence has another encoder's vectors.")

    def serving(self, now: Serving, sha256: str) -> Serving:
        """The model with this manifest; blocks while it is loaded.

        One such model is held beside the one that serves. Raises ``pin-unavailable``.
        """
        from model.folders import CheckpointRefused

        if now.model.sha256 == sha256:
            return now
        with self._lock:
            if self._loaded is not None and self._loaded.model.sha256 == sha256:
                return self._loaded
            choice = self._registry.by_sha256(sha256, now.model.encoder_sha256)
            if choice is None:
                raise unavailable("model", "No checkpoint with this sha256 is kept.")
            try:
                loaded = self._load(choice.version, choice.folder, now)
            except CheckpointRefused:
                raise unavailable("model", "The checkpoint belongs to another encoder.") from None
            old, self._loaded = self._loaded, loaded
        if old is not None:
            old.engine.retire()
        return loaded

    def _at(self, sequence: int) -> Searcher:
        for searcher in self.searchers():
            if searcher.sequence == sequence:
                return searcher
        raise unavailable("index", "The index is not kept at this sequence.")
