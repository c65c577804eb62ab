"""Where benchmarks read and where they keep what they made."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "benchmarks" / "runs"
CACHE = RUNS / "cache"
SHIPPED = ROOT / "model" / "shipped"


def data_folder() -> Path:
    """FOOTNOTE_DATA, or `shared/data` beside the repository."""
    return Path(os.environ.get("FOOTNOTE_DATA", ROOT.parent / "shared" / "data"))
