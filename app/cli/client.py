"""How a command reaches Footnote: the server that holds the store, or one started for the command.

Both answer the same API, so a command does the same whether or not a server runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import httpx
import orjson

from app.cli.output import StepBar, is_terminal, note, warn
from app.jobs.job import FINISHED
from app.settings import InvalidSetting, Settings, read_settings, revealed, unknown_variables
from index_data.documents import Document
from index_data.storage.lock import holder

READY_S: Final = 900.0
POLL_S: Final = 0.3


def settings_or_exit(*, quiet: bool = False) -> Settings:
    """The settings of the environment; a wrong one ends the command with its name.

    Unless ``quiet``, a warning names the variables that are no setting.
    """
    try:
        settings = read_settings()
    except InvalidSetting as error:
        raise click.ClickException(str(error)) from error
    if not quiet and (unknown := unknown_variables()):
        warn(f"not a setting, ignored: {', '.join(unknown)}")
    return settings


@contextmanager
def connect(*, ready: bool = True) -> Iterator[httpx.Client]:
    """A client of the server that holds the store; if none does, of one started for this command.

    With ``ready`` it waits until the model and the index are loaded.
    """
    settings = settings_or_exit()
    held = holder(settings.store_dir)
    if held is not None:
        address = held.address
        if address is None:
            raise click.ClickException(
                f"the store {settings.store_dir} is held by process {held.pid or '?'}, "
                "which serves no address: wait until it ends, or stop it"
            )
        key = revealed(settings.admin_key or settings.write_key or settings.predict_key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
            try:
                _wait(client, ready)
            except httpx.TransportError as error:
                raise click.ClickException(
                    f"the store is held by the server at {address}, which does not answer: {error}"
                ) from error
            yield client
        return
    from app.cli.local import local_server

    with local_server(settings) as client:
        _wait(client, ready)
        yield client


def ask(method: str, path: str, *, ready: bool = True, **options: Any) -> Any:
    """The JSON answer to one request, on a connection of its own."""
    with connect(ready=ready) as client:
        return checked(client.request(method, path, **options)).json()


def send_documents(client: httpx.Client, documents: Iterable[Document]) -> dict[str, Any]:
    """Store documents; durable and searchable when this returns the server's report."""
    answer = client.post(
        "/documents",
        content=b"\n".join(orjson.dumps(document.to_json()) for document in documents),
        headers={"Content-Type": "application/x-ndjson"},
        timeout=600,
    )
    report: dict[str, Any] = checked(answer).json()
    return report


def run_job(client: httpx.Client, path: str, body: dict[str, Any], *, label: str) -> dict[str, Any]:
    """Start a job and :func:`follow` it to its end."""
    return follow(client, checked(client.post(path, json=body)).json(), label=label)


def checked(response: httpx.Response) -> httpx.Response:
    """The response if it is a success; else the command ends with the problem's message."""
    if response.is_success:
        return response
    response.read()
    try:
        body = response.json()
    except ValueError:
        raise click.ClickException(f"{response.status_code}: {response.text[:300]}") from None
    lines = [body.get("detail") or body.get("title") or str(response.status_code)]
    lines += [f"  {e['pointer']}: {e['detail']}" for e in body.get("errors", [])]
    if response.status_code == 401:
        lines.append("  set FOOTNOTE_ADMIN_KEY to a key of this server")
    raise click.ClickException("\n".join(lines))


def follow(client: httpx.Client, job: dict[str, Any], *, label: str) -> dict[str, Any]:
    """The finished job, watched under a progress bar; Ctrl-C cancels it.

    Ends the command when the job does not succeed.
    """
    path = f"/admin/jobs/{job['id']}"
    with StepBar(label, notes=False) as bar:
        try:
            while job["state"] not in FINISHED:
                time.sleep(POLL_S)
                job = checked(client.get(path)).json()
                now = job["progress"]
                stage = now.get("stage") or job["state"]
                bar(now["step"], now["total"], now.get("loss"), now["eta_s"], stage)
        except KeyboardInterrupt:
            note(f"cancelling {job['id']}")
            checked(client.post(f"{path}/cancel"))
            while job["state"] not in FINISHED:
                time.sleep(POLL_S)
                job = checked(client.get(path)).json()
    if job["state"] != "succeeded":
        detail = (job.get("problem") or {}).get("detail", "")
        raise click.ClickException(f"{job['type']} {job['state']}. {detail}".strip())
    return job


def _wait(client: httpx.Client, ready: bool) -> None:
    """Wait until the server is live, or with ``ready`` until it is ready or has failed."""
    path = "/health/ready" if ready else "/health/live"
    deadline = time.monotonic() + READY_S
    stage = ""
    while True:
        response = client.get(path)
        if response.status_code == 200:
            return
        body = response.json()
        now = str(body.get("stage") or body.get("detail") or "starting")
        if now != stage and is_terminal():
            note(now)
        stage = now
        if body.get("failed") or time.monotonic() > deadline:
            raise click.ClickException(f"the server is not ready: {stage}")
        time.sleep(0.1)
