"""Jobs: real processes, one at a time, durable states, cancelled, interrupted, resumed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.jobs import queue as jobs_module
from app.jobs.job import FINISHED, Job, JobKind, load_jobs
from app.jobs.queue import Jobs
from app.problems import Problem
from index_data.storage.store import DocumentStore

TARGETS = "tests.app.job_targets"


def kinds(
    finish: Callable[[Job, dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, JobKind]:
    done = finish or (lambda job, result: result)
    return {
        name: JobKind(f"{TARGETS}:{name}", lambda job: {}, done)
        for name in ("count", "refuse", "fail", "die", "deaf")
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    opened = DocumentStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def jobs(store: DocumentStore) -> Iterator[Jobs]:
    started = Jobs(store, kinds())
    assert started.start() == []
    yield started
    started.close()


def wait(jobs: Jobs, job: Job, *, states: frozenset[str] = FINISHED) -> Job:
    deadline = time.monotonic() + 30
    while jobs.get(job.id).state not in states:
        assert time.monotonic() < deadline, jobs.get(job.id)
        time.sleep(0.02)
    return jobs.get(job.id)


def test_a_job_runs_in_a_process_of_its_own(jobs: Jobs) -> None:
    job = wait(jobs, jobs.submit("count", {"n": 3, "_secret": "x"}))
    assert job.state == "succeeded"
    assert job.result is not None
    assert job.result["counted"] == 3
    assert job.result["nice"] >= 10
    assert job.result["threads"] == {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    assert job.result["pid"] != os.getpid()
    shown = job.to_json()
    assert shown["progress"]["step"] == shown["progress"]["total"] == 3
    assert shown["progress"]["loss"] == pytest.approx(1 / 3, abs=1e-6)
    assert shown["params"] == {"n": 3}
    assert shown["created"] <= shown["started"] <= shown["finished"]


def test_jobs_run_one_after_the_other_and_inference_is_told(store: DocumentStore) -> None:
    told: list[bool] = []
    jobs = Jobs(store, kinds(), busy=told.append)
    jobs.start()
    first, second = (jobs.submit("count", {"n": 2, "pause": 0.1}) for _ in range(2))
    assert wait(jobs, second).state == "succeeded"
    assert [job.id for job in jobs.all()] == [second.id, first.id]
    started, finished = jobs.get(second.id).started, jobs.get(first.id).finished
    assert started is not None
    assert finished is not None
    assert started >= finished
    jobs.close()
    assert told == [True, False, True, False]


@pytest.mark.parametrize(
    ("kind", "problem", "detail"),
    [
        ("refuse", "/problems/validation", "two labels"),
        ("fail", "/problems/internal", "on fire"),
        ("die", "/problems/internal", "signal 9"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_job_runs(
    jobs: Jobs, kind: str, problem: str, detail: str
) -> None:
    job = wait(jobs, jobs.submit(kind, {}))
    assert job.state == "failed"
    assert job.problem is not None
    assert job.problem["type"] == problem
    assert detail in job.problem["detail"]
    assert wait(jobs, jobs.submit("count", {"n": 1})).state == "succeeded"


def test_a_fault_when_the_result_is_put_in_use_fails_the_job(store: DocumentStore) -> None:
    def refuse(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("does not load")

    jobs = Jobs(store, kinds(refuse))
    jobs.start()
    job = wait(jobs, jobs.submit("count", {"n": 1}))
    jobs.close()
    assert job.state == "failed"
    assert "does not load" in str(job.problem)


def test_cancelling(jobs: Jobs) -> None:
    running = jobs.submit("count", {"n": 1000, "pause": 0.05})
    queued = jobs.submit("count", {"n": 1})
    wait(jobs, running, states=frozenset({"running"}))
    assert jobs.cancel(queued.id).state == "cancelled"
    jobs.cancel(running.id)
    assert wait(jobs, running).state == "cancelled"
    assert jobs.cancel(running.id).state == "cancelled"
    done = wait(jobs, jobs.submit("count", {"n": 1}))
    assert jobs.cancel(done.id) == done  # a finished job stays what it was
    assert jobs.get(queued.id).state == "cancelled"


def test_a_job_that_does_not_listen_is_killed(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "CANCEL_GRACE_S", 0.5)
    pid_file = tmp_path / "pid"
    job = jobs.submit("deaf", {"pid_file": str(pid_file)})
    while not jobs.get(job.id).progress:
        time.sleep(0.02)
    jobs.cancel(job.id)
    assert wait(jobs, job).state == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_restart_marks_what_it_interrupted_and_can_resume_it(store: DocumentStore) -> None:
    first = Jobs(store, kinds())
    first.start()
    running = first.submit("count", {"n": 4, "pause": 0.2})
    queued = first.submit("count", {"n": 1})
    wait(first, running, states=frozenset({"running"}))
    first.close()
    assert first.get(running.id).state == "interrupted"

    second = Jobs(store, kinds())
    assert [job.id for job in second.start()] == [queued.id]
    assert {second.get(j.id).state for j in (running, queued)} == {"interrupted"}
    assert second.get(running.id).problem == first.get(running.id).problem
    second.resume(running.id)
    assert wait(second, running).state == "succeeded"
    with pytest.raises(Problem) as refused:
        second.resume(running.id)
    assert refused.value.slug == "job-conflict"
    second.close()


def test_the_process_of_a_job_ends_with_its_server(tmp_path: Path) -> None:
    """Kill -9 of the server: nobody could take the result, so the child must not go on."""
    pid_file = tmp_path / "pid"
    script = (
        "import time\nfrom pathlib import Path\n"
        "from app.jobs.job import JobKind\nfrom app.jobs.queue import Jobs\n"
        "from index_data.storage.store import DocumentStore\n"
        "if __name__ == '__main__':\n"
        f"    jobs = Jobs(DocumentStore(Path({str(tmp_path / 's')!r})), "
        f"{{'deaf': JobKind('{TARGETS}:deaf', lambda j: {{}}, lambda j, r: r)}})\n"
        f"    jobs.start(); jobs.submit('deaf', {{'pid_file': {str(pid_file)!r}}})\n"
        "    time.sleep(60)\n"
    )
    path = tmp_path / "server.py"
    path.write_text(script)
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    server = subprocess.Popen([sys.executable, str(path)], env=environment, cwd=root)
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int(pid_file.read_text())
    server.kill()
    server.wait()
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def test_watching_tells_every_state(jobs: Jobs) -> None:
    async def collect() -> list[Job]:
        job = jobs.submit("count", {"n": 5, "pause": 0.15})
        return [seen async for seen in jobs.watch(job.id)]

    seen = asyncio.run(collect())
    assert seen[-1].state == "succeeded"
    assert len(seen) >= 3
    steps = [job.progress["step"] for job in seen if job.progress]
    assert steps == sorted(steps)


def test_the_queue_has_an_end(store: DocumentStore) -> None:
    jobs = Jobs(store, kinds())
    jobs._thread = threading.Thread()  # nothing is taken from the queue
    jobs._store.write(load_jobs).result()
    for _ in range(jobs_module.MAX_QUEUED):
        jobs.submit("count", {"n": 1})
    with pytest.raises(Problem) as refused:
        jobs.submit("count", {"n": 1})
    assert refused.value.status == 429


def test_an_unknown_job_is_not_found(jobs: Jobs) -> None:
    with pytest.raises(Problem) as refused:
        jobs.get("job_none")
    assert refused.value.slug == "not-found"
