"""Connections that stay slow: a header that does not arrive costs its sender the connection.

uvicorn waits for a header without end. Here it has ``header_timeout_s`` seconds from the first byte
of a request, or from the opening of a connection, and :data:`MAX_HEADER` bytes. A body that stops
arriving is given up where bodies are read (``app.web.body``), and answered the same.
"""

from __future__ import annotations

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.problems import Problem

MAX_HEADER = 64 * 1024  # bytes of one request's line and header fields
TOO_LARGE = 431


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with a limit on the time and the size of a header."""

    header_timeout_s = 10.0
    _timer: asyncio.TimerHandle | None = None
    _begun = False  # of the header that is awaited, something has come
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From here on a header is awaited."""
        super().connection_made(transport)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a header, or of a body.

        After an answer the first byte starts the time anew, though it may be of no request.
        """
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_header()
        if self._timer is not None:
            self._size += len(data)
        super().data_received(data)
        if self._begun and self._size > MAX_HEADER:
            self._refuse(TOO_LARGE, b"")

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The header is whole: what follows is in the application's hands."""
        self._stop()
        super().on_headers_complete()

    def _await_header(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _stop(self) -> None:
        self._begun, self._size = False, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Time is up. Who has sent nothing is told nothing."""
        if not self._begun:
            self._stop()
            self.transport.close()
            return
        detail = f"The header was not whole after {self.header_timeout_s:g} seconds."
        problem = Problem("request-timeout", detail)
        self._refuse(problem.status, orjson.dumps(problem.to_json()))

    def _refuse(self, status: int, body: bytes) -> None:
        self._stop()
        head = (
            b"content-type: application/problem+json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def connection_type(header_timeout_s: float) -> type[Connection]:
    """The protocol with this limit, as uvicorn wants it: a class."""
    return type("TimedConnection", (Connection,), {"header_timeout_s": header_timeout_s})
