"""A real ``footnote serve`` in a process of its own, to be called, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx


def free_port() -> int:
    """A TCP port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """One server on one folder; ``start`` and ``kill`` may alternate as often as a test likes."""

    def __init__(self, folder: Path, encoder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FOOTNOTE_")},
            "FOOTNOTE_STORE_DIR": str(folder / "store"),
            "FOOTNOTE_CHECKPOINT_DIR": str(folder / "checkpoints"),
            "FOOTNOTE_ENCODER": str(encoder),
            "FOOTNOTE_HOST": "127.0.0.1",
            "FOOTNOTE_PORT": str(self.port),
            "FOOTNOTE_SAMPLE": "0",
            "FOOTNOTE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            **settings,
        }

    def start(self, *, wait_s: float = 60.0) -> float:
        """Start and wait until ready; returns the seconds from the start to ready."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while time.monotonic() - began < wait_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.tail()}")
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"the server was not ready in {wait_s} s: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """SIGKILL to the server and to what it started: nothing gets a chance to tidy up."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, as an init system stops a service; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
