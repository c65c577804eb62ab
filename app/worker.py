"""The spawned process of a job: one thread, low priority, JSON over a pipe.

The parent sends one word, ``cancel``. The child sends objects with one of the keys ``progress``,
``result``, ``problem``. JSON and not pickled objects travel, so that neither side can be made to
run what the other wrote. A child whose parent is gone ends at once: nobody could take its result.
"""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

logger = logging.getLogger(__name__)

NICENESS: Final = 10
MIN_INTERVAL_S: Final = 0.1  # between two progress messages of one stage
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class JobRefused(Exception):
    """A job that cannot be done, with the reason a person can act on.

    ``slug`` names the problem as the API's table of errors does.
    """

    def __init__(self, detail: str, *, slug: str = "validation") -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail


class JobCancelled(Exception):
    """Raised inside a job when it was cancelled."""


@dataclass
class Reporter:
    """What a job reports to: progress out, cancellation in.

    ``send`` receives ``{"step", "total", "stage", "loss"?, "eta_s"}``.
    """

    send: Callable[[dict[str, Any]], None]
    cancelled: Callable[[], bool]
    _stage: str = ""
    _started: float = 0.0
    _first: int = 0
    _last: float = 0.0

    def progress(self, step: int, total: int, stage: str, loss: float | None = None) -> None:
        """Report ``step`` of ``total`` of a stage; raises :class:`JobCancelled` once cancelled."""
        if self.cancelled():
            raise JobCancelled
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._first, self._last = stage, now, step, 0.0
        if now - self._last < MIN_INTERVAL_S and step < total:
            return
        self._last = now
        done = step - self._first
        rate = (now - self._started) / done if done > 0 else None
        message: dict[str, Any] = {
            "step": step,
            "total": total,
            "stage": stage,
            "eta_s": None if rate is None else round(rate * max(total - step, 0), 1),
        }
        if loss is not None:
            message["loss"] = round(loss, 6)
        self.send(message)


def child_main(connection: Connection, target: str, params: dict[str, Any]) -> None:
    """Run ``target`` in this process and send what it reports through ``connection``.

    ``target`` is a name, ``package.module:function``: it is imported here, after the number of
    threads is set, and the server need not import what only jobs use.
    """
    os.nice(NICENESS)
    # Two OpenMP pools on two cores that are both busy collapse; one thread a process does not.
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    cancel = threading.Event()
    threading.Thread(target=_listen, args=(connection, cancel), daemon=True).start()

    def send(kind: str, body: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps({kind: body}).encode())

    reporter = Reporter(lambda progress: send("progress", progress), cancel.is_set)
    try:
        send("result", pkgutil.resolve_name(target)(params, reporter))
    except JobCancelled:
        send("problem", {"slug": "cancelled", "detail": "The job was cancelled."})
    except JobRefused as refused:
        send("problem", {"slug": refused.slug, "detail": refused.detail})
    except Exception as error:  # the process boundary: what is not reported here is lost
        logger.exception("the job failed")
        detail = f"{type(error).__name__}: {error}"
        send("problem", {"slug": "internal", "detail": detail[:1000]})
    finally:
        connection.close()


def _listen(connection: Connection, cancel: threading.Event) -> None:
    """Wait for the parent's word; leave the process when the parent is gone."""
    while True:
        try:
            word = connection.recv_bytes()
        except EOFError:
            os._exit(1)
        except OSError:
            return  # closed by child_main: the job is over
        if word == b"cancel":
            cancel.set()
