"""kill -9 while writing: what was acknowledged is there, and nothing is half there.

``KILL_ROUNDS`` says how often (default 5; the target is 50 in CI and 1,000 on demand).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from index_data.storage.store import DocumentStore

KILLS = int(os.environ.get("KILL_ROUNDS", "5"))
ROOT = Path(__file__).resolve().parents[3]

# Acknowledges on its standard output: "<round> <n>" once write n of the round is durable.
WRITER = """
import sys
from collections import deque
from pathlib import Path
from index_data.documents import Document
from index_data.storage.store import DocumentStore

folder, turn = Path(sys.argv[1]), sys.argv[2]
store = DocumentStore(folder)
waiting = deque()
for n in range(1_000_000):
    documents = [Document(f"{turn}-{n}-{i}", f"write {n} of {turn} " * 50) for i in range(3)]
    documents.append(Document("shared", f"{turn} {n}"))
    waiting.append((n, store.upsert(documents)))
    while len(waiting) > 20 or (waiting and waiting[0][1].done()):
        done, future = waiting.popleft()
        future.result()
        sys.stdout.write(f"{turn} {done}\\n")
        sys.stdout.flush()
"""


def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    chance = random.Random(11)
    acknowledged: dict[int, int] = {}
    for turn in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(turn)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stdout is not None
        lines = [child.stdout.readline()]  # from here on it is writing
        time.sleep(chance.uniform(0.0, 0.15))
        child.kill()
        lines += child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        whole = [line.split() for line in lines if len(line.split()) == 2]
        acknowledged[turn] = max((int(n) for _, n in whole), default=-1)

        begin = time.monotonic()
        store = DocumentStore(tmp_path)
        assert time.monotonic() - begin < 5
        ids = {d.id for batch in store.scan() for d in batch}
        for earlier, last in acknowledged.items():
            for n in range(last + 1):
                assert {f"{earlier}-{n}-{i}" for i in range(3)} <= ids
        for name in ids - {"shared"}:
            prefix = name.rpartition("-")[0]
            assert {f"{prefix}-{i}" for i in range(3)} <= ids, "a write is half there"
        shared = store.get("shared")
        assert shared is not None
        assert int(shared.text.split()[1]) >= acknowledged[turn] or shared.text.split()[0] != str(
            turn
        )
        assert store.verify() == []
        assert store.sequence >= len(ids)
        store.close()
    assert sum(acknowledged.values()) > 0
