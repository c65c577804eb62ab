"""Jobs: a table in the store, one at a time in a spawned process, watched while they run.

A state change is durable before anybody sees it; progress and the heartbeat are written now and
then. What a start finds queued or running was interrupted by the restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import queue
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from app.jobs.job import (
    FINISHED,
    RESUMABLE,
    Job,
    JobKind,
    load_jobs,
    problem_body,
    save_job,
    stopped_body,
)
from app.problems import Problem
from app.worker import JobRefused, child_main
from index_data.storage.store import DocumentStore, StoreError

logger = logging.getLogger(__name__)

MAX_QUEUED: Final = 32
HEARTBEAT_S: Final = 5.0
CANCEL_GRACE_S: Final = 10.0
WATCH_INTERVAL_S: Final = 0.2
SERVER_STOPPED: Final = "The server stopped while the job ran."


class Jobs:
    """The queue of jobs and the thread that runs them one at a time.

    ``busy`` is told when a job's process starts and ends, so that inference can leave it a core.
    """

    def __init__(
        self,
        store: DocumentStore,
        kinds: Mapping[str, JobKind],
        *,
        busy: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._busy = busy
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._cancelling: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)

    def start(self) -> list[Job]:
        """Make the table, mark what a restart interrupted (returned), start the thread."""
        rows = self._store.write(load_jobs).result()
        interrupted = []
        for job in rows:
            if job.state not in FINISHED:
                job = replace(
                    job,
                    state="interrupted",
                    finished=_now(),
                    problem=stopped_body("Interrupted", SERVER_STOPPED),
                )
                interrupted.append(job)
            self._jobs[job.id] = job
        for job in interrupted:
            self._put(job)
        self._thread.start()
        return interrupted

    def close(self) -> None:
        """Stop the running job's process and the thread; what was not finished is interrupted."""
        self._closing.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=CANCEL_GRACE_S)

    def submit(self, kind: str, params: dict[str, Any]) -> Job:
        """Queue a job; durable when this returns. Raises ``queue-full`` past 32 waiting."""
        if kind not in self._kinds:
            raise KeyError(kind)
        with self._lock:
            waiting = sum(job.state == "queued" for job in self._jobs.values())
            if waiting >= MAX_QUEUED:
                raise Problem("queue-full", f"{waiting} jobs are waiting.", retry_after=60)
            job_id = f"job_{secrets.token_hex(8)}"
            job = Job(job_id, kind, "queued", params, None, None, None, _now())
            self._put(job)
        self._queue.put(job.id)
        return job

    def resume(self, job_id: str) -> Job:
        """Queue a job again that failed, was cancelled or interrupted, under its own id.

        A job that keeps its work (training does, step by step) goes on where it stopped. Raises
        ``not-found``, or ``job-conflict`` for a job in another state.
        """
        with self._lock:
            job = self.get(job_id)
            if job.state not in RESUMABLE:
                raise Problem("job-conflict", f"A job that is {job.state} cannot be resumed.")
            self._cancelling.discard(job_id)
            job = replace(job, state="queued", problem=None, started=None, finished=None)
            self._put(job)
        self._queue.put(job.id)
        return job

    def get(self, job_id: str) -> Job:
        """The job as it stands. Raises ``not-found``."""
        if job_id not in self._jobs:
            raise Problem("not-found", "There is no job with this id.")
        return self._jobs[job_id]

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._lock:
            jobs = list(self._jobs.values())
        # Turned round after sorting: of two made within a millisecond the later stands first too.
        return sorted(jobs, key=lambda job: job.created)[::-1]

    def active(self, kind: str) -> list[Job]:
        """The jobs of one type that are queued or running."""
        return [job for job in self.all() if job.type == kind and job.state not in FINISHED]

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that is finished stays what it was."""
        with self._lock:
            job = self.get(job_id)
            if job.state == "queued":
                job = replace(job, state="cancelled", finished=_now())
                self._put(job)
            elif job.state == "running":
                self._cancelling.add(job_id)
        return job

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job as it stands, then again on every change until it is finished."""
        seen: Job | None = None
        while True:
            job = self.get(job_id)
            if job is not seen and (seen is None or job.to_json() != seen.to_json()):
                yield job
                seen = job
            if job.state in FINISHED:
                return
            await asyncio.sleep(WATCH_INTERVAL_S)

    def _put(self, job: Job, *, durable: bool = True) -> None:
        """Replace the job; with ``durable`` it is on the disk before anybody sees it."""
        with self._lock:
            write = self._store.write(lambda connection: save_job(connection, job))
            if durable:
                write.result()
            self._jobs[job.id] = job

    def _loop(self) -> None:
        while (job_id := self._queue.get()) is not None:
            job = self._jobs[job_id]
            if job.state != "queued" or self._closing.is_set():
                continue
            try:
                self._run(job)
            except StoreError as error:
                # The store refused the write (a full disk). The next start finds the row as it
                # was; until then the job is shown as failed.
                logger.exception("job %s: its state could not be written", job_id)
                failed = replace(
                    self._jobs[job_id],
                    state="failed",
                    finished=_now(),
                    problem=problem_body("internal", f"The state was not written: {error}"),
                )
                self._jobs[job_id] = failed

    def _run(self, job: Job) -> None:
        kind = self._kinds[job.type]
        job = replace(job, state="running", started=_now(), heartbeat=_now())
        self._put(job)
        self._busy(True)
        try:
            params = job.params | kind.prepare(job)
            result, problem = self._supervise(job.id, kind.target, params)
            job = self._jobs[job.id]
            if result is not None:
                result = kind.finish(replace(job, params=params), result)
        except (JobRefused, Problem) as refused:
            result, problem = None, problem_body(refused.slug, refused.detail)
        except Exception as error:  # the thread's boundary: the job fails, the server goes on
            logger.exception("job %s failed in the server", job.id)
            result, problem = None, problem_body("internal", f"{type(error).__name__}: {error}")
        finally:
            self._busy(False)
        job = self._jobs[job.id]
        self._put(replace(job, finished=_now(), **self._outcome(job, result, problem)))
        self._cancelling.discard(job.id)

    def _outcome(
        self, job: Job, result: dict[str, Any] | None, problem: dict[str, Any] | None
    ) -> dict[str, Any]:
        if result is not None:
            return {"state": "succeeded", "result": result}
        if job.id in self._cancelling:
            return {"state": "cancelled"}
        if self._closing.is_set():
            stopped = stopped_body("Interrupted", SERVER_STOPPED)
            return {"state": "interrupted", "problem": stopped}
        return {"state": "failed", "problem": problem}

    def _supervise(
        self, job_id: str, target: str, params: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Run the child to its end; (result, problem), one of them ``None``."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=child_main, args=(theirs, target, params), name=job_id, daemon=True
        )
        process.start()
        theirs.close()  # so that the child's end is the only one, and its death an end of file
        try:
            return self._listen(job_id, ours, process)
        finally:
            if process.is_alive():
                process.join(timeout=1.0)
            if process.is_alive():
                process.kill()
            process.join()
            process.close()
            ours.close()

    def _listen(
        self, job_id: str, connection: Connection, process: SpawnProcess
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        deadline: float | None = None
        beaten = time.monotonic()
        while True:
            stop = job_id in self._cancelling or self._closing.is_set()
            if stop and deadline is None:
                deadline = time.monotonic() + (2.0 if self._closing.is_set() else CANCEL_GRACE_S)
                with suppress(BrokenPipeError, ConnectionResetError):  # it ended just before
                    connection.send_bytes(b"cancel")
            if deadline is not None and time.monotonic() > deadline:
                return None, stopped_body("Cancelled", "The job did not stop by itself.")
            if not connection.poll(WATCH_INTERVAL_S):
                beaten = self._beat(job_id, beaten)
                continue
            try:
                message = json.loads(connection.recv_bytes())
            except (EOFError, ConnectionResetError):
                process.join()
                return None, problem_body("internal", _death(process.exitcode))
            if "result" in message:
                return message["result"], None
            if "problem" in message:
                return None, problem_body(message["problem"]["slug"], message["problem"]["detail"])
            job = replace(self._jobs[job_id], progress=message["progress"])
            self._jobs[job_id] = job
            beaten = self._beat(job_id, beaten)

    def _beat(self, job_id: str, beaten: float) -> float:
        """Write progress and heartbeat if it is time; when that was last done."""
        if time.monotonic() - beaten < HEARTBEAT_S:
            return beaten
        self._put(replace(self._jobs[job_id], heartbeat=_now()), durable=False)
        return time.monotonic()


def _now() -> float:
    return round(time.time(), 3)


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        hint = " (most often because memory ran out)" if exitcode == -9 else ""
        return f"The job's process was ended by signal {-exitcode}{hint}."
    return f"The job's process ended with status {exitcode} and no result."
