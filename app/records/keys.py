"""Bearer keys and their scopes.

A scope includes the ones before it: ``open`` < ``predict`` < ``write`` < ``admin``. Of a key only
its SHA-256 digest is kept: keys are 256 random bits, so a plain digest cannot be searched for. Keys
that come from the environment are digested at start and never stored, so that taking the variable
away takes the key away. Every route names its scope: ``Depends(scope("predict"))``.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, cast

from fastapi import Request

from app.problems import Problem
from index_data.storage.store import DocumentStore

ScopeName = Literal["open", "predict", "write", "admin"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    created REAL NOT NULL
)
"""
KEY_PREFIX = "fn_"  # lets secret scanners and people recognise one in a file
MAX_KEY_CHARS = 512  # no digest of a megabyte that a stranger sent


class Scope(IntEnum):
    """What a key may do; a larger scope includes the smaller ones."""

    OPEN = 0
    PREDICT = 1
    WRITE = 2
    ADMIN = 3

    @classmethod
    def named(cls, name: str) -> Scope:
        """The scope of that name. Raises ``ValueError`` for any other."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ValueError(f"no scope {name!r}: it is one of predict, write, admin") from None

    @property
    def label(self) -> ScopeName:
        """The name as the API writes it."""
        return cast(ScopeName, self.name.lower())


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key as it may be shown: never the key, only the start of its digest."""

    id: str
    name: str
    scope: ScopeName
    created: float | None
    source: Literal["store", "environment"]


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def make_key() -> str:
    """A new key: 256 random bits behind a prefix."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


class Keys:
    """The keys that count: those of the environment and those whose digest the store holds.

    With none at all on a loopback address every request has every scope (:attr:`open`); on any
    other address :meth:`prepare` makes one admin key.
    """

    def __init__(
        self,
        store: DocumentStore,
        *,
        admin: str | None = None,
        write: str | None = None,
        predict: str | None = None,
        loopback: bool = True,
    ) -> None:
        self._store = store
        self._loopback = loopback
        configured = ((predict, Scope.PREDICT), (write, Scope.WRITE), (admin, Scope.ADMIN))
        # The largest scope wins where one key was given for several.
        self._environment = {digest(key): scope for key, scope in configured if key}
        self._stored: dict[str, KeyInfo] = {}
        self._passing: set[str] = set()

    def prepare(self) -> str | None:
        """Read the stored digests; make the one admin key if this address needs one.

        Returns the key just made, to be printed once, or ``None``.
        """
        self._execute(SCHEMA)
        self.reload()
        if self._loopback or self._environment or self._stored:
            return None
        return self.add(Scope.ADMIN, name="made at first start")

    def reload(self) -> None:
        """Read the digests again."""
        rows = self._store.write(_read_rows).result()
        self._stored = {row.id: row for row in rows}

    @property
    def open(self) -> bool:
        """True where no key is configured and the address is loopback: everybody may do all."""
        return self._loopback and not self._environment and not self._stored

    def add(self, scope: Scope, *, name: str) -> str:
        """Make a key of ``scope``, keep its digest, and return the key (the only time it is seen).

        On an open loopback server the first key closes it.
        """
        if scope is Scope.OPEN:
            raise ValueError("a key needs a scope: predict, write or admin")
        key = make_key()
        row = (digest(key), name, scope.label, time.time())
        self._execute("INSERT INTO keys VALUES (?, ?, ?, ?)", *row)
        self.reload()
        return key

    def passing(self) -> str:
        """An admin key that is kept nowhere and ends with this process: for a command's own use."""
        key = make_key()
        self._passing.add(digest(key))
        return key

    def revoke(self, prefix: str) -> KeyInfo:
        """Remove the stored key whose id starts with ``prefix`` (at least 8 characters).

        Raises ``KeyError`` when none or more than one fits.
        """
        matches = [i for i in self._stored.values() if len(prefix) >= 8 and i.id.startswith(prefix)]
        if len(matches) != 1:
            raise KeyError(f"{len(matches)} stored keys have an id starting with {prefix!r}")
        key = matches[0]
        self._execute("DELETE FROM keys WHERE digest = ?", key.id)
        self.reload()
        return key

    def _execute(self, statement: str, *values: object) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        self._store.write(write).result()

    def list(self) -> list[KeyInfo]:
        """Every key, those of the environment first."""
        environment = [
            KeyInfo(d, f"FOOTNOTE_{s.name}_KEY", s.label, None, "environment")
            for d, s in self._environment.items()
        ]
        return environment + sorted(self._stored.values(), key=lambda info: info.created or 0.0)

    def identify(self, authorization: str | None) -> Scope | None:
        """The scope that an ``Authorization`` header carries; ``None`` for an unknown key.

        No header at all is :attr:`Scope.OPEN`, or everything on an open server.
        """
        if self.open:
            return Scope.ADMIN
        if authorization is None:
            return Scope.OPEN
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or len(key) > MAX_KEY_CHARS:
            return None
        # Looking a digest up leaks, at most, timing about a digest, from which no key follows.
        hashed = digest(key)
        if hashed in self._passing:
            return Scope.ADMIN
        if hashed in self._environment:
            return self._environment[hashed]
        info = self._stored.get(hashed)
        return None if info is None else Scope.named(info.scope)


class RequireScope:
    """The dependency that :func:`scope` returns; a test reads :attr:`required` off every route."""

    def __init__(self, required: Scope) -> None:
        self.required = required

    async def __call__(self, request: Request) -> Scope:
        """Let the request pass with the scope it has.

        Raises :class:`Problem`: ``unauthenticated`` with no key or an unknown one, ``forbidden``
        with a key of too small a scope.
        """
        if self.required is Scope.OPEN:
            return Scope.OPEN
        keys: Keys = request.app.state.footnote.keys
        held = keys.identify(request.headers.get("authorization"))
        if held is None:
            raise Problem("unauthenticated", "The key is not known to this server.")
        if held is Scope.OPEN:
            raise Problem("unauthenticated", "Send a key: 'Authorization: Bearer <key>'.")
        if held < self.required:
            raise Problem(
                "forbidden",
                f"This route needs the scope '{self.required.label}'; the key has '{held.label}'.",
            )
        return held


def scope(name: ScopeName) -> RequireScope:
    """The FastAPI dependency that asks for the scope ``name``."""
    return RequireScope(Scope.named(name))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    return host in {"localhost", "::1", "[::1]"} or host.startswith("127.")


def _read_rows(connection: sqlite3.Connection) -> list[KeyInfo]:
    rows = connection.execute("SELECT digest, name, scope, created FROM keys").fetchall()
    return [
        KeyInfo(d, name, Scope.named(s).label, created, "store") for d, name, s, created in rows
    ]
