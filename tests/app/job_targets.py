"""What the jobs of the tests do, in real processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from app.worker import JobRefused, Reporter


def count(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Count to ``n`` with a pause between."""
    n, pause = int(params["n"]), float(params.get("pause", 0.0))
    for step in range(n):
        reporter.progress(step + 1, n, "count", loss=1.0 / (step + 1))
        time.sleep(pause)
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    return {"counted": n, "nice": os.nice(0), "threads": threads, "pid": os.getpid()}


def refuse(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    raise JobRefused("At least two labels are needed.")


def fail(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    raise RuntimeError("the disk is on fire")


def die(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def deaf(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Tell its pid, and never look whether it was cancelled."""
    Path(params["pid_file"]).write_text(str(os.getpid()))
    reporter.send({"step": 0, "total": 1, "stage": "deaf", "eta_s": None})
    time.sleep(120)
    return {}
