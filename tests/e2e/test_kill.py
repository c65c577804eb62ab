"""kill -9 while clients write: what was acknowledged is there, whole, and the server is back soon.

``KILL_ROUNDS`` sets how often (50 in CI, 1,000 on demand), ``READY_WITHIN_S`` how soon: 5 on two
idle cores; more by default, since a machine that is busy with something else must not fail a build.
"""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest

from tests.e2e.process import ServerProcess

KILLS = int(os.environ.get("KILL_ROUNDS", "50"))
READY_WITHIN_S = float(os.environ.get("READY_WITHIN_S", "20"))  # the median of all starts
LOOKED_THROUGH = 10  # rounds between two looks at every document, and not the last round's alone


class Writer(threading.Thread):
    """Posts documents one by one and as NDJSON until the server is gone; remembers each answer."""

    def __init__(self, url: str, name: str, batch: int) -> None:
        super().__init__(daemon=True)
        self.url, self.prefix, self.batch = url, name, batch
        self.acknowledged: dict[str, str] = {}

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self.url, timeout=20) as client:
            while True:
                rows = []
                for _ in range(self.batch):
                    number += 1
                    name = f"{self.prefix}-{number}"
                    rows.append({"id": name, "text": f"{name} " * 8})
                try:
                    if self.batch == 1:
                        answer = client.post("/documents", json=rows[0])
                    else:
                        body = "\n".join(json.dumps(row) for row in rows)
                        headers = {"content-type": "application/x-ndjson"}
                        answer = client.post(
                            "/documents?wait=durable", content=body, headers=headers
                        )
                except httpx.TransportError:
                    return
                assert answer.status_code in (200, 201), answer.text
                assert answer.json()["accepted"] == self.batch
                self.acknowledged.update({row["id"]: row["text"].strip() for row in rows})


def stored(url: str) -> dict[str, str]:
    """Every document of the server by id, read page by page."""
    found: dict[str, str] = {}
    cursor: str | None = None
    with httpx.Client(base_url=url, timeout=30) as client:
        while True:
            query: dict[str, str | int] = {"limit": 1000}
            if cursor:
                query["cursor"] = cursor
            page = client.get("/documents", params=query).json()
            found.update({row["id"]: row["text"].strip() for row in page["documents"]})
            cursor = page.get("next_cursor")
            if not cursor:
                return found


def some(url: str, names: Iterable[str]) -> dict[str, str]:
    """These documents of the server, one by one."""
    with httpx.Client(base_url=url, timeout=30) as client:
        answers = ((name, client.get(f"/documents/{name}")) for name in names)
        return {n: a.json()["text"].strip() for n, a in answers if a.status_code == 200}


@pytest.mark.slow
def test_no_acknowledged_document_is_lost(tmp_path: Path, tiny_encoder: Path) -> None:
    server = ServerProcess(tmp_path, tiny_encoder)
    chance = random.Random(7)
    acknowledged: dict[str, str] = {}
    server.start()  # the first start may compile the kernels
    starts: list[float] = []
    for round_number in range(KILLS):
        writers = [
            Writer(server.url, f"single{round_number}", 1),
            Writer(server.url, f"bulk{round_number}", 20),
        ]
        for writer in writers:
            writer.start()
        time.sleep(chance.uniform(0.05, 0.6))
        server.kill()
        written: dict[str, str] = {}
        for writer in writers:
            writer.join(30)
            assert not writer.is_alive()
            written.update(writer.acknowledged)
        acknowledged.update(written)
        starts.append(server.start())
        if round_number % LOOKED_THROUGH == LOOKED_THROUGH - 1 or round_number == KILLS - 1:
            found, wanted = stored(server.url), acknowledged
        else:
            found, wanted = some(server.url, written), written
        lost = [key for key, text in wanted.items() if found.get(key) != text]
        assert not lost, f"round {round_number}: {len(lost)} lost, the first {lost[:3]}"
    server.stop()
    assert len(acknowledged) > KILLS
    usual, slowest = statistics.median(starts), max(starts)
    summary = f"{KILLS} kills, {len(acknowledged)} acknowledged documents, none lost; "
    summary += f"ready after {usual:.1f} s (median), {slowest:.1f} s (slowest)"
    logging.getLogger(__name__).info(summary)  # shown with --log-cli-level=INFO
    assert usual <= READY_WITHIN_S, summary
