"""Slow and endless senders, over real sockets: they are given up, and others do not notice."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.cli.local import bind, make_server
from app.settings import Settings
from app.state import Footnote

TIMEOUT_S = 1.0
SLOW = 500
HEADER = b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]
) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("slow")
    settings = settings_for(folder, header_timeout_s=TIMEOUT_S, idle_timeout_s=TIMEOUT_S)
    with serving(settings) as address:
        yield address


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, int]]:
    """A server on a real socket; its address."""
    footnote = Footnote(settings)
    footnote.registry.set_active("none")
    with bind("127.0.0.1", 0) as listening:
        server = make_server(footnote)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        host, port = listening.getsockname()
        try:
            while not footnote.status.ready:
                assert thread.is_alive()
                time.sleep(0.02)
            yield host, port
        finally:
            server.should_exit = True
            thread.join()


def talk(address: tuple[str, int], *parts: bytes, every_s: float = 0.0) -> tuple[bytes, float]:
    """Send the parts with pauses; what came back until the server closed, and after how long."""
    with socket.create_connection(address, timeout=20) as connection:
        began = time.monotonic()
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(every_s)
        except ConnectionError:
            pass
        try:
            while received := connection.recv(65536):
                answer += received
        except ConnectionError:
            pass
        return answer, time.monotonic() - began


@pytest.mark.parametrize("start", [b"P", HEADER[:40], HEADER])
def test_a_header_that_does_not_come_is_408(address: tuple[str, int], start: bytes) -> None:
    answer, seconds = talk(address, start)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head
    assert json.loads(body)["type"] == "/problems/request-timeout"
    assert 0.9 * TIMEOUT_S < seconds < 10 * TIMEOUT_S


def test_one_byte_at_a_time_does_not_win_time(address: tuple[str, int]) -> None:
    answer, _ = talk(address, *(bytes([b]) for b in HEADER[:40]), every_s=TIMEOUT_S / 10)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")  # a reset may overtake the answer


@pytest.mark.parametrize("parts", [(), (b"\r\n",)])
def test_a_connection_without_a_request_is_closed(
    address: tuple[str, int], parts: tuple[bytes, ...]
) -> None:
    assert talk(address, *parts)[0] == b""


def test_empty_lines_after_an_answer_do_not_keep_a_connection(address: tuple[str, int]) -> None:
    whole = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    answer, seconds = talk(address, whole, b"\r\n", b"GET", every_s=0.05)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 408 ") == 1
    assert seconds < 10 * TIMEOUT_S


def test_a_body_that_stops_is_408(address: tuple[str, int]) -> None:
    answer, _ = talk(address, HEADER + b'Content-Length: 100\r\n\r\n{"query":')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("at_once", [False, True])  # a server that is busy reads it at once
def test_an_endless_header_is_refused(
    tmp_path: Path, settings_for: Callable[..., Settings], at_once: bool
) -> None:
    parts = [HEADER] + [b"X-A: " + b"a" * 8000 + b"\r\n"] * 12
    with serving(settings_for(tmp_path)) as patient:  # a busy machine may take a second for it
        answer, _ = talk(patient, *([b"".join(parts)] if at_once else parts))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_many_slow_connections_hinder_nobody(address: tuple[str, int]) -> None:
    with ExitStack() as stack, httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        slow = []
        for number in range(SLOW):
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            ending = b"" if number % 2 else b'Content-Length: 100\r\n\r\n{"query":'
            connection.sendall(HEADER + ending)
            slow.append(connection)
        began = time.monotonic()
        for _ in range(5):
            assert client.post("/classify", json={"input": "a parcel"}).status_code == 200
        assert time.monotonic() - began < 5
        assert all(connection.recv(12) == b"HTTP/1.1 408" for connection in slow)
