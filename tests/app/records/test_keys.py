"""Keys: digests only, scopes that include each other, closed off loopback."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from app.problems import Problem
from app.records.keys import Keys, RequireScope, Scope, digest, is_loopback, make_key, scope
from index_data.storage.store import DocumentStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    opened = DocumentStore(tmp_path)
    yield opened
    opened.close()


def test_loopback_without_a_key_is_open(store: DocumentStore) -> None:
    keys = Keys(store)
    assert keys.prepare() is None
    assert keys.open
    assert keys.identify(None) is Scope.ADMIN


def test_another_address_makes_one_admin_key_and_keeps_its_digest(store: DocumentStore) -> None:
    made = Keys(store, loopback=False).prepare()
    assert made is not None
    again = Keys(store, loopback=False)
    assert again.prepare() is None
    assert again.identify(f"Bearer {made}") is Scope.ADMIN
    assert again.identify(None) is Scope.OPEN
    assert [k.id for k in again.list()] == [digest(made)]


def test_no_key_is_written_down(store: DocumentStore, tmp_path: Path) -> None:
    keys = Keys(store, admin="an-admin-key-of-the-environment")
    keys.prepare()
    made = keys.add(Scope.WRITE, name="importer")
    store.close()
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert made.encode() not in everything
    assert b"an-admin-key" not in everything
    with closing(sqlite3.connect(next(tmp_path.glob("*.sqlite*")))) as connection:
        rows = connection.execute("SELECT digest FROM keys").fetchall()
    assert rows == [(digest(made),)]


def test_a_key_of_the_environment_goes_with_its_variable(store: DocumentStore) -> None:
    with_key = Keys(store, write="secret-of-write")
    with_key.prepare()
    assert with_key.identify("Bearer secret-of-write") is Scope.WRITE
    without = Keys(store)
    without.prepare()
    assert without.open


def test_one_key_for_several_scopes_has_the_largest(store: DocumentStore) -> None:
    keys = Keys(store, admin="same", predict="same")
    keys.prepare()
    assert keys.identify("Bearer same") is Scope.ADMIN


def test_the_first_key_closes_an_open_server(store: DocumentStore) -> None:
    keys = Keys(store)
    keys.prepare()
    made = keys.add(Scope.PREDICT, name="reader")
    assert not keys.open
    assert keys.identify(None) is Scope.OPEN
    assert keys.identify(f"bearer  {made} ") is Scope.PREDICT
    keys.revoke(digest(made)[:8])
    assert keys.open


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "Bearer " + "x" * 10_000]
)
def test_what_is_no_known_key_is_refused(store: DocumentStore, header: str) -> None:
    keys = Keys(store, admin="right")
    keys.prepare()
    assert keys.identify(header) is None


def test_revoking_wants_exactly_one_key(store: DocumentStore) -> None:
    keys = Keys(store)
    keys.prepare()
    made = keys.add(Scope.ADMIN, name="a")
    for prefix in ("", digest(made)[:7], "0" * 64):
        with pytest.raises(KeyError):
            keys.revoke(prefix)


def test_scopes_include_the_ones_before_them() -> None:
    assert Scope.OPEN < Scope.PREDICT < Scope.WRITE < Scope.ADMIN
    with pytest.raises(ValueError, match="no scope"):
        Scope.named("root")
    assert len({make_key() for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def nothing() -> None:
    """A handler."""


async def _status(app: FastAPI, path: str, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.get(path, headers=headers)).status_code


def test_every_scope_meets_every_identity(store: DocumentStore) -> None:
    app = FastAPI()
    keys = Keys(store, admin="a", write="w", predict="p")
    keys.prepare()
    app.state.footnote = SimpleNamespace(keys=keys)

    @app.exception_handler(Problem)
    async def answer(request: Request, problem: Problem) -> JSONResponse:
        return JSONResponse(problem.to_json(), problem.status, headers=problem.headers)

    for name in ("open", "predict", "write", "admin"):
        app.get(f"/{name}", dependencies=[Depends(scope(name))])(nothing)

    expected = {
        None: [200, 401, 401, 401],
        "x": [200, 401, 401, 401],
        "p": [200, 200, 403, 403],
        "w": [200, 200, 200, 403],
        "a": [200, 200, 200, 200],
    }
    for key, statuses in expected.items():
        got = [
            asyncio.run(_status(app, f"/{name}", key))
            for name in ("open", "predict", "write", "admin")
        ]
        assert got == statuses, key
    required = [
        d.dependency.required
        for route in app.routes
        for d in getattr(route, "dependencies", [])
        if isinstance(d.dependency, RequireScope)
    ]
    assert required == [Scope.OPEN, Scope.PREDICT, Scope.WRITE, Scope.ADMIN]
