"""Work that tells what it has: its first event, its faults, and who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from app.problems import Problem, invalid
from app.web.streaming import Emit, Event, Streaming


def told(work: Callable[[Emit], Awaitable[Any]], most: int = 100) -> list[Event]:
    """The events of some work, of which a client reads so many."""

    async def read() -> list[Event]:
        streaming = await Streaming(work, last="whole").started()
        found = []
        async with aclosing(streaming.events()) as events:
            async for event in events:
                found.append(event)
                if len(found) == most:
                    break
        await asyncio.sleep(0)
        return found

    return asyncio.run(read())


def test_events_come_in_order_and_the_result_last() -> None:
    async def work(emit: Emit) -> int:
        emit("first", 1)
        await asyncio.sleep(0)
        emit("second", 2)
        return 3

    assert told(work) == [Event("first", 1), Event("second", 2), Event("whole", 3)]


def test_what_goes_wrong_first_is_raised_and_later_is_told() -> None:
    async def refused(emit: Emit) -> None:
        raise invalid("#/input", "no")

    with pytest.raises(Problem):
        told(refused)

    async def breaks(emit: Emit) -> None:
        emit("first", 1)
        await asyncio.sleep(0)
        raise Problem("queue-full", "no")

    first, last = told(breaks)
    assert (first.name, last.name, last.data.slug) == ("first", "error", "queue-full")

    async def faults(emit: Emit) -> None:
        emit("first", 1)
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert told(faults)[-1].data.slug == "internal"


def test_who_leaves_stops_the_work() -> None:
    stopped = []

    async def work(emit: Emit) -> None:
        try:
            while True:
                emit("more", None)
                await asyncio.sleep(0)
        finally:
            stopped.append(True)

    assert len(told(work, most=3)) == 3
    assert stopped

    async def never_read() -> None:
        streaming = await Streaming(work, last="whole").started()
        await streaming.stop()
        await asyncio.sleep(0)

    asyncio.run(never_read())
    assert len(stopped) == 2
