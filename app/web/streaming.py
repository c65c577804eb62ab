"""Answers as Server-Sent Events: work that emits events, and a client that may disconnect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from app.inference.model_thread import EngineClosed
from app.problems import Problem

logger = logging.getLogger(__name__)

Emit = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name, and data that becomes JSON."""

    name: str
    data: Any


def silent(name: str, data: Any) -> None:
    """Drop an event: the answer is not streamed."""


class Streaming:
    """Work that emits events while it runs.

    ``await started()`` raises what goes wrong before the first event, so that it can be answered
    as any problem; later problems are an event ``error``. Closing :meth:`events` stops the work.
    """

    def __init__(self, work: Callable[[Emit], Awaitable[Any]], *, last: str) -> None:
        """``last``: the name of the event with the result of ``work``."""
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._work, self._last = work, last
        self._first: Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        try:
            result = await self._work(lambda name, data: self._queue.put_nowait(Event(name, data)))
            self._queue.put_nowait(Event(self._last, result))
        finally:
            self._queue.put_nowait(None)

    async def started(self) -> Streaming:
        """Begin, and wait for the first event."""
        self._task = asyncio.ensure_future(self._run())
        try:
            self._first = await self._queue.get()
            if self._first is None:
                await self._task  # raises what went wrong
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        return self

    async def stop(self, message: Any = None) -> None:
        """Stop the work: the client disconnected, perhaps before the first event was sent."""
        if self._task is not None:
            self._task.cancel()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every event in order, once :meth:`started`."""
        assert self._task is not None
        try:
            event = self._first
            while event is not None:
                yield event
                event = await self._queue.get()
            await self._task
        except Problem as problem:
            yield Event("error", problem)
        except EngineClosed:
            yield Event("error", Problem("not-ready", "The server is stopping.", retry_after=1))
        except Exception:  # the status was sent: an event is all that is left
            logger.exception("a stream failed")
            yield Event("error", Problem("internal", "The server's log has the details."))
        finally:
            self._task.cancel()
