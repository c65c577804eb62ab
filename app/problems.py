"""Errors as they leave the server: one table, one shape (RFC 9457), never an echo of the input.

Services raise :class:`Problem`; :mod:`app.web.errors` answers with it. Under ``/v1`` the same
problems have OpenAI's error shape, which those clients read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import orjson

Slug = Literal[
    "validation", "capability-missing", "unauthenticated", "forbidden", "not-found",
    "method-not-allowed", "request-timeout", "pin-unavailable", "job-conflict",
    "precondition-failed", "payload-too-large", "unsupported-media-type", "queue-full",
    "not-ready", "insufficient-storage", "internal",
]  # fmt: skip

MAX_BODY = 4096  # bytes of an error body, whatever was asked
MAX_DETAIL = 500
MAX_ERRORS = 16
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table of errors: what a client sees and what ``/problems/<slug>`` says."""

    status: int
    title: str
    explanation: str


TABLE = Path(__file__).parent / "static" / "problems.toml"
KINDS: Mapping[str, Kind] = {
    slug: Kind(**row) for slug, row in tomllib.loads(TABLE.read_text("utf-8")).items()
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One place of the request that is wrong; ``pointer`` is a JSON pointer (``#/input/3``)."""

    pointer: str
    detail: str


class Problem(Exception):
    """What a request could not be given, to be told as ``application/problem+json``.

    ``detail`` is for people and must not quote the input. ``more`` adds members to the body.
    """

    def __init__(
        self,
        slug: Slug,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug: Slug = slug
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.more = dict(more or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if slug == "unauthenticated":
            self.headers["WWW-Authenticate"] = 'Bearer realm="footnote"'

    @property
    def status(self) -> int:
        """The HTTP status of this kind of problem."""
        return KINDS[self.slug].status

    def to_json(self, request_id: str | None = None) -> dict[str, Any]:
        """The problem object of RFC 9457, within :data:`MAX_BODY` bytes."""
        body: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": KINDS[self.slug].title,
            "status": self.status,
            "detail": self.detail[:MAX_DETAIL],
            **self.more,
        }
        if request_id is not None:
            body |= {"instance": f"urn:footnote:{request_id}", "request_id": request_id}
        if self.retry_after is not None:
            body["retry_after"] = self.retry_after
        if self.errors:
            shown = [
                {"pointer": plain_pointer(e.pointer), "detail": e.detail[:200]}
                for e in self.errors[:MAX_ERRORS]
            ]
            body["errors"] = shown
            while len(orjson.dumps(body)) > MAX_BODY - 64 and shown:
                shown.pop()
        return body

    def to_openai(self, request_id: str | None = None) -> dict[str, Any]:
        """The same in OpenAI's shape: ``{"error": {message, type, param, code}}``."""
        status = self.status
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        first = self.errors[0] if self.errors else None
        place = "" if first is None else plain_pointer(first.pointer)
        message = self.detail if first is None else f"{self.detail} {place}: {first.detail}"
        error: dict[str, Any] = {
            "message": message[: 2 * MAX_DETAIL],
            "type": kind,
            "param": place.removeprefix("#").removeprefix("/") or None,
            "code": self.more.get("code", self.slug.replace("-", "_")),
        }
        if request_id is not None:
            error["request_id"] = request_id
        return {"error": error}


def plain_pointer(pointer: str) -> str:
    """A JSON pointer up to the first key that is not plain, since that may be anything sent."""
    parts = pointer.split("/")
    plain = takewhile(_PLAIN_KEY.fullmatch, parts[1:])
    return "/".join([parts[0], *plain])[:200]


def invalid(pointer: str, detail: str) -> Problem:
    """A ``validation`` problem with one wrong place."""
    return Problem("validation", "The request is not valid.", errors=[FieldError(pointer, detail)])
