"""The language models that were pre-trained here: folders beside the checkpoints of heads.

They lie in a folder of their own, ``language`` in that of the checkpoints: none of them can answer
a request in place of a checkpoint of heads, so none may be chosen when the server starts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.problems import Problem
from app.records.registry import MANIFEST, SHIPPED, VERSION

FOLDER: Final = "language"  # under the folder of the checkpoints
SHIPPED_LANGUAGE: Final = Path(__file__).resolve().parents[2] / "model" / "shipped-language"


def generator_source(named: str) -> str:
    """The folder or hub id that ``FOOTNOTE_GENERATOR`` means; ``shipped`` is beside the code."""
    return str(SHIPPED_LANGUAGE) if named == SHIPPED else named


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """One of them. ``report``: that of its pre-training; ``problem``: why it cannot be read."""

    version: str
    created: str | None
    report: dict[str, Any]
    problem: str | None

    @property
    def tokens(self) -> int | None:
        """Those that it learned from, with those of the models that it was started from."""
        total: int | None = self.report.get("tokens")
        before = self.report.get("before")
        while total is not None and before is not None:
            total, before = total + before.get("tokens", 0), before.get("before")
        return total


class LanguageModels:
    """The folder of the language models."""

    def __init__(self, checkpoints: Path) -> None:
        self.folder = checkpoints / FOLDER

    def folders(self) -> list[tuple[str, Path]]:
        """Every one's version and folder, the newest first."""
        manifests = sorted(self.folder.glob(f"*/{MANIFEST}"), reverse=True)
        return [(p.parent.name, p.parent) for p in manifests if VERSION.fullmatch(p.parent.name)]

    def all(self) -> list[LanguageModel]:
        """Every one with its report, the newest first. Weights are not read."""
        return [_read(version, folder) for version, folder in self.folders()]

    def find(self, version: str) -> LanguageModel | None:
        """One of them, if it is there."""
        folder = dict(self.folders()).get(version)
        return None if folder is None else _read(version, folder)

    def folder_of(self, version: str) -> Path:
        """The folder of one of them, or of the one that ships, whether it is there or not."""
        return SHIPPED_LANGUAGE if version == SHIPPED else self.folder / version

    def remove(self, version: str) -> bool:
        """Delete one for good; whether it was there."""
        folder = dict(self.folders()).get(version)
        if folder is None:
            return False
        # The manifest first: a folder half removed must not look whole.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return True


def report_of(model: LanguageModel) -> dict[str, Any]:
    """The report as that of a head. Raises ``validation`` where it cannot be read."""
    if model.problem is not None:
        raise Problem("validation", f"The language model does not read: {model.problem}")
    return {"task": "pretrain", "evaluated_on": "held-out", **model.report}


def _read(version: str, folder: Path) -> LanguageModel:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return LanguageModel(version, manifest["created"], report, None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return LanguageModel(version, None, {}, f"{type(error).__name__}: {error}"[:300])
