"""A load generator that costs little beside the server: raw HTTP/1.1, kept alive."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np


@dataclass(slots=True)
class Answers:
    """Milliseconds of each answer with status 200, and how many had another status."""

    ms: list[float] = field(default_factory=list)
    others: int = 0
    seconds: float = 0.0

    def percentile(self, q: float) -> float:
        return round(float(np.percentile(self.ms, q)), 3) if self.ms else float("nan")

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return round(len(self.ms) / self.seconds, 1) if self.seconds else 0.0


def post_bytes(path: str, body: object, *, kind: str = "application/json") -> bytes:
    """A whole request as it goes over the wire; a body of bytes goes as it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(x.split(b":")[1]) for x in lines if x.startswith(b"content-length"))
        return int(head[9:12]), await reader.readexactly(length)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()


async def closed_loop(
    port: int, requests: Sequence[bytes], *, clients: int, seconds: float, most: int | None = None
) -> Answers:
    """So many clients, each asking again as soon as it is answered."""
    answers = Answers()
    upcoming: Iterator[bytes] = cycle(requests)
    began = time.perf_counter()
    left = most if most is not None else 1 << 60

    async def client() -> None:
        nonlocal left
        connection = Connection(port)
        while time.perf_counter() - began < seconds and left > 0:
            left -= 1
            sent = time.perf_counter()
            status, _ = await connection.send(next(upcoming))
            if status == 200:
                answers.ms.append(1000 * (time.perf_counter() - sent))
            else:
                answers.others += 1
        await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    answers.seconds = time.perf_counter() - began
    return answers


def run_load(
    port: int, requests: Sequence[bytes], *, clients: int, seconds: float, most: int | None = None
) -> Answers:
    """`closed_loop` from outside an event loop."""
    return asyncio.run(closed_loop(port, requests, clients=clients, seconds=seconds, most=most))
