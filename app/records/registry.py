"""The checkpoints of a folder: which there are, which one serves, and the way back.

``active.json`` names what serves and what served before it; it is replaced by renaming, so that a
power cut leaves the old one or the new one. ``VERSION.gate.json`` is what promotion decided about a
checkpoint: beside it, since the files inside are sealed by its manifest. The checkpoint that ships
beside the code is what serves as long as the folder holds none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.problems import Problem
from index_data.storage.database import sync_folder

if TYPE_CHECKING:
    from model.checkpoint import Manifest

POINTER: Final = "active.json"
MANIFEST: Final = "manifest.json"
DECISION: Final = ".gate.json"
SHIPPED: Final = "shipped"  # the version under which the checkpoint beside the code is known
NO_CHECKPOINT: Final = "none"  # no heads: the neighbours alone answer
HISTORY: Final = 20
VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One checkpoint, what its files say of it, and why it cannot be used (``problem``)."""

    version: str
    shipped: bool
    active: bool
    about: dict[str, Any]
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """The shape in which ``GET /admin/models`` and ``footnote models`` list it."""
        return {
            "version": self.version,
            "active": self.active,
            "shipped": self.shipped,
            "problem": self.problem,
            **self.about,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What should serve: a folder, or ``None`` for no heads, and why others were passed over."""

    version: str
    folder: Path | None
    problems: tuple[str, ...] = ()


class Registry:
    """The checkpoint folder. Safe to use from several threads."""

    def __init__(self, folder: Path, *, shipped: Path | None = None) -> None:
        self.folder = folder
        beside = Path(__file__).resolve().parents[2] / "model" / "shipped"
        self._shipped = beside if shipped is None else shipped
        self._lock = threading.RLock()

    def choose(self) -> Choice:
        """What serves at start: the active one; if it does not verify, what served before it.

        Every one passed over is named in ``problems``. Without a pointer it is the newest of the
        folder, else the shipped one.
        """
        problems: list[str] = []
        for version in self._candidates():
            if version == NO_CHECKPOINT:
                return Choice(version, None, tuple(problems))
            folder = self._folder(version)
            problem = refusal(folder)
            if problem is None:
                return Choice(version, folder, tuple(problems))
            problems.append(f"checkpoint {version}: {problem}")
        return Choice(NO_CHECKPOINT, None, tuple(problems))

    @property
    def active(self) -> str:
        """The version that serves, or is to serve; ``none`` for no checkpoint."""
        pointer = self._read()
        return pointer[0] if pointer else self.choose().version

    def checkpoints(self) -> list[CheckpointInfo]:
        """Every checkpoint, the newest first and the shipped one last."""
        active = self.active
        return [self._info(version, active) for version in self._versions()]

    def folders(self) -> list[tuple[str, Path]]:
        """Every checkpoint's version and folder, verified or not."""
        return [(version, self._folder(version)) for version in self._versions()]

    def find(self, version: str) -> Path:
        """The verified folder of a version. Raises ``not-found``, or ``validation`` if refused."""
        if version not in self._versions():
            raise Problem("not-found", "There is no checkpoint of this version.")
        folder = self._folder(version)
        problem = refusal(folder)
        if problem is not None:
            raise Problem("validation", f"The checkpoint does not verify: {problem}")
        return folder

    def fitting(self, encoder_sha256: str) -> Choice:
        """The newest checkpoint that was trained over an encoder, or none."""
        trained_over = self._first(lambda manifest: manifest.encoder_sha256 == encoder_sha256)
        return trained_over or Choice(NO_CHECKPOINT, None)

    def by_sha256(self, sha256: str, encoder_sha256: str) -> Choice | None:
        """The checkpoint whose manifest has this digest; an encoder's own stands for no heads."""
        if sha256 == encoder_sha256:
            return Choice(NO_CHECKPOINT, None)
        return self._first(lambda manifest: manifest.sha256 == sha256)

    def set_active(self, version: str) -> None:
        """Write the pointer, durably; what served before it is remembered."""
        if version != NO_CHECKPOINT:
            self.find(version)
        with self._lock:
            pointer = self._read()
            before = pointer or [self.choose().version]
            if before[0] != version:
                self._write([version, *before][:HISTORY])
            elif pointer is None:
                self._write(before)

    def previous(self) -> str:
        """The version that served before. Raises ``job-conflict`` when there is none."""
        pointer = self._read()
        if pointer is None or len(pointer) < 2:
            raise Problem("job-conflict", "No other checkpoint has served before this one.")
        return pointer[1]

    def set_rolled_back(self) -> None:
        """Drop the active version from the pointer, so that the one before it serves."""
        with self._lock:
            pointer = self._read()
            if pointer is not None and len(pointer) > 1:
                self._write(pointer[1:])

    def keep_active(self) -> None:
        """Write down what serves now, so that a checkpoint that is only added does not."""
        with self._lock:
            if self._read() is None:
                self._write([self.choose().version])

    def remove(self, version: str) -> None:
        """Delete a checkpoint for good.

        Raises ``not-found``, or ``job-conflict`` for the active one and the shipped one.
        """
        with self._lock:
            if version not in self._versions():
                raise Problem("not-found", "There is no checkpoint of this version.")
            if version in (self.active, SHIPPED):
                raise Problem("job-conflict", "The checkpoint serves, or ships with Footnote.")
            pointer = self._read()
            if pointer is not None and version in pointer:
                self._write([v for v in pointer if v != version])
            # The manifest first: a folder half removed must not look whole.
            (self._folder(version) / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self._folder(version), ignore_errors=True)
            self._decision_file(version).unlink(missing_ok=True)

    def keep_decision(self, version: str, decision: dict[str, Any]) -> None:
        """Write down, durably, what promotion decided about a checkpoint; the last counts."""
        with self._lock:
            self._replace(self._decision_file(version), decision)

    def decision(self, version: str) -> dict[str, Any] | None:
        """What promotion decided about a checkpoint; ``None``: nothing is known."""
        try:
            body = json.loads(self._decision_file(version).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return body if isinstance(body, dict) else None

    def new_version(self, field: str) -> str:
        """A version that no checkpoint has: time and field, sortable by age."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = re.sub(r"[^A-Za-z0-9]+", "-", field).strip("-")[:40] or "field"
        version, number = f"{stamp}-{name}", 2
        while (self.folder / version).exists():
            version, number = f"{stamp}-{name}-{number}", number + 1
        return version

    def _candidates(self) -> list[str]:
        pointer = self._read() or []
        rest = [v for v in self._versions() if v not in pointer]
        # With a pointer only what has served may serve again, or the shipped one.
        return [*pointer, *([SHIPPED] if SHIPPED in rest else [])] if pointer else rest

    def _versions(self) -> list[str]:
        own = []
        if self.folder.is_dir():
            own = [
                entry.name
                for entry in self.folder.iterdir()
                if VERSION.fullmatch(entry.name) and (entry / MANIFEST).is_file()
            ]
        shipped = [SHIPPED] if (self._shipped / MANIFEST).is_file() else []
        return [*sorted(own, reverse=True), *shipped]

    def _first(self, matches: Callable[[Manifest], bool]) -> Choice | None:
        """The newest verified checkpoint whose manifest matches."""
        from model.checkpoint import verify
        from model.folders import CheckpointRefused

        for version in self._versions():
            folder = self._folder(version)
            try:
                if matches(verify(folder)):
                    return Choice(version, folder)
            except (CheckpointRefused, OSError):
                continue
        return None

    def _folder(self, version: str) -> Path:
        return self._shipped if version == SHIPPED else self.folder / version

    def _decision_file(self, version: str) -> Path:
        return self.folder / f"{version}{DECISION}"

    def _info(self, version: str, active: str) -> CheckpointInfo:
        folder = self._folder(version)
        problem = refusal(folder)
        about = {} if problem else _about(folder)
        return CheckpointInfo(version, version == SHIPPED, version == active, about, problem)

    def _read(self) -> list[str] | None:
        """The pointer: the active version, then those before it. ``None``: absent or unreadable."""
        try:
            body = json.loads((self.folder / POINTER).read_text(encoding="utf-8"))
            versions = [body["version"], *body["before"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        names = [v for v in versions if isinstance(v, str) and VERSION.fullmatch(v)]
        return names or None

    def _write(self, versions: list[str]) -> None:
        self._replace(self.folder / POINTER, {"version": versions[0], "before": versions[1:]})

    def _replace(self, path: Path, content: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{path.name}.{os.getpid()}"
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(self.folder)


def refusal(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, with the numbers or hashes that do not fit, or ``None``.

    Every file is read and compared with the manifest; none is loaded.
    """
    # Here, since it brings torch along, and the port is to be open before that is imported.
    from model.checkpoint import verify
    from model.folders import CheckpointRefused

    try:
        verify(folder)
    except (CheckpointRefused, OSError) as error:
        return str(error)
    return None


def _about(folder: Path) -> dict[str, Any]:
    """The manifest of a verified checkpoint and the report of each of its heads."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    reports = {}
    for path in sorted((folder / "heads").glob("*/report.json")):
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        report = json.loads(path.read_text(encoding="utf-8"))
        reports[config["field"]] = {
            "task": config["task"],
            "labels": config.get("labels", config.get("types", [])),
            **report,
        }
    return {
        "created": manifest["created"],
        "encoder": manifest["encoder"],
        "fields": manifest["fields"],
        "heads": reports,
    }
