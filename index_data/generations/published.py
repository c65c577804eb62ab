"""The generations in a folder, and which of them were published.

The sha256 of every published manifest stands in the store: a folder without one was left behind by
a build that was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from index_data.generations.build import generation_folders
from index_data.segment.manifest import NAME, GenerationCorrupt, Manifest, manifest_sha256, verify
from index_data.storage.store import DocumentStore, ReadOnlyStore
from index_data.text.analysis import ANALYZERS, Analyzer, analyzer_of

_SHA256 = "index:sha256:"


class NeverPublished(GenerationCorrupt):
    """A folder that a build left behind when it was interrupted before its publication."""


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """A generation in the folder; `problem` says why it cannot be used, None that it may."""

    number: int
    active: bool
    sequence: int | None = None
    documents: int | None = None
    passages: int | None = None
    encoder_sha: str | None = None
    analyzer: str | None = None
    created: float | None = None
    problem: str | None = None


class PublishedGenerations:
    """Generations under `folder`. Over a store that is open for reading only nothing changes."""

    def __init__(self, store: ReadOnlyStore, folder: Path) -> None:
        self._store = store
        self._folder = folder

    def folders(self) -> list[tuple[int, Path]]:
        """Number and folder of each, the oldest first; nothing is verified."""
        return generation_folders(self._folder)

    def register(self, path: Path) -> Manifest:
        """Publish a generation that was just built. Raises GenerationCorrupt."""
        sha256 = manifest_sha256(path)
        manifest = verify(path, sha256=sha256)
        if isinstance(self._store, DocumentStore):
            self._store.meta_set(_SHA256 + path.name, sha256)
        return manifest

    def known(self, path: Path, *, whole: bool = True) -> Manifest:
        """The manifest of a published generation that this version can read.

        Raises GenerationCorrupt, and NeverPublished. `whole`: its files are verified too.
        """
        sha256 = self._store.meta_get(_SHA256 + path.name)
        if sha256 is None:
            raise NeverPublished(f"{path.name}: was never published")
        manifest = verify(path, sha256=sha256, files=whole)
        analyzer_for(path, manifest)
        return manifest

    def all(self, active: int) -> list[GenerationInfo]:
        """All of them, the newest first; `active`: the number of the one that serves."""
        result = []
        for number, path in reversed(self.folders()):
            try:
                manifest = self.known(path, whole=False)
            except GenerationCorrupt as error:
                result.append(GenerationInfo(number, number == active, problem=str(error)))
                continue
            result.append(
                GenerationInfo(
                    number,
                    number == active,
                    sequence=manifest.sequence,
                    documents=manifest.documents,
                    passages=manifest.passages,
                    encoder_sha=manifest.encoder_sha,
                    analyzer=analyzer_for(path, manifest).name,
                    created=manifest.created,
                )
            )
        return result

    def sweep(self, active: Path) -> None:
        """Remove what an interrupted build left behind, and generations never published."""
        if not isinstance(self._store, DocumentStore):
            return
        for path in self._folder.glob(".building-*"):
            shutil.rmtree(path, ignore_errors=True)
        for _, path in self.folders():
            if path != active and self._store.meta_get(_SHA256 + path.name) is None:
                _remove(path)

    def remove(self, gone: Callable[[int], bool]) -> list[int]:
        """Remove those whose numbers `gone` says yes to; which they were."""
        removed = [(number, path) for number, path in self.folders() if gone(number)]
        for _, path in removed:
            _remove(path)
        return [number for number, _ in removed]


def analyzer_for(path: Path, manifest: Manifest) -> Analyzer:
    """A generation's analyzer. Raises GenerationCorrupt for one that this version has not."""
    analyzer = analyzer_of(manifest.analyzer)
    if analyzer is None:
        there = ", ".join(one.version for one in ANALYZERS.values())
        raise GenerationCorrupt(
            f"{path.name}: analyzer {manifest.analyzer}, this version has {there}"
        )
    return analyzer


def _remove(path: Path) -> None:
    """Take the manifest first: a folder half removed must not look whole."""
    (path / NAME).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
