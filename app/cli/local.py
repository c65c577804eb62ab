"""Servers that a command makes: the one that ``serve`` runs, and one for as long as a command."""

from __future__ import annotations

import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
import httpx
import uvicorn

from app.server import create_app
from app.settings import Settings
from app.state import Footnote
from app.web.connections import connection_type
from index_data.storage.store import StoreError

BACKLOG = 2048
MOST_FILES = 65_536
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is told before anything is loaded.

    Ends the command with the reason when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise click.ClickException(
            f"cannot listen on {host} port {port}: {error.strerror}. "
            "Choose another port with --port, or 0 for any free one."
        ) from error
    listening.listen(BACKLOG)
    return listening


def url_of(listening: socket.socket) -> str:
    """The address at which this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allow_connections() -> None:
    """Take as many open files as the system allows this process: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS may name a limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, MOST_FILES)), hard))


def open_state(settings: Settings, address: str) -> Footnote:
    """The application's state; a store that cannot be opened ends the command with the reason."""
    try:
        return Footnote(settings, address=address)
    except StoreError as error:
        raise click.ClickException(f"{error}. `footnote doctor` looks into it.") from error


def make_server(footnote: Footnote) -> uvicorn.Server:
    """The HTTP server over a state; it logs nothing itself, since each request is logged here."""
    config = uvicorn.Config(
        create_app(footnote),
        http=connection_type(footnote.settings.header_timeout_s),
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(footnote.settings.shutdown_grace_s)),
    )
    return uvicorn.Server(config)


@contextmanager
def local_server(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a server on loopback that lives as long as the block and lets only it in."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    settings = settings.model_copy(update={"host": "127.0.0.1", "port": 0})
    with bind(settings.host, 0) as listening:
        address = url_of(listening)
        footnote = open_state(settings, address)
        key = footnote.keys.passing()
        server = make_server(footnote)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise click.ClickException("the server of this command did not start")
                time.sleep(0.01)
            headers = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
