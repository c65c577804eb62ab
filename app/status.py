"""How far a server has come up, and what of it does not serve as it should."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

READY = "ready"


@dataclass(slots=True)
class Status:
    """How far the server has come up."""

    stage: str = "starting"
    detail: str = ""
    since: float = field(default_factory=time.monotonic)
    failed: bool = False
    degraded: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.stage == READY
