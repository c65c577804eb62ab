"""Errors as they leave the server: one table, one shape (RFC 9457), never an echo of the input.

Services raise :class:`Problem`; :mod:`app.web.errors` answers with it. Under ``/v1`` the same
problems have OpenAI's error shape, which those clients read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
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


KINDS: Mapping[str, Kind] = {
    "validation": Kind(
        422, "The request is not valid",
        "Something in the request has the wrong type, is out of range, is unknown, or the body is "
        "not valid JSON. `errors` names each place with a JSON pointer. Fix the request and retry.",
    ),
    "capability-missing": Kind(
        422, "Not supported by this server",
        "The request is well formed, but the loaded checkpoint or this version cannot do it. "
        "`detail` names what it can do.",
    ),
    "unauthenticated": Kind(
        401, "A key is needed",
        "No key was sent, or one that this server does not know. Send the header "
        "`Authorization: Bearer <key>`.",
    ),
    "forbidden": Kind(
        403, "The key does not allow this",
        "The key is known, but its scope is too small. `predict` reads and predicts, `write` also "
        "changes documents and gives feedback, `admin` does everything.",
    ),
    "not-found": Kind(
        404, "Not found",
        "There is no route, document, prediction, feedback or job at this path.",
    ),
    "method-not-allowed": Kind(
        405, "Method not allowed",
        "The path exists; the header `Allow` names its methods.",
    ),
    "request-timeout": Kind(
        408, "The request did not arrive in time",
        "The headers were not complete in time, or no byte of the body arrived for a while. The "
        "connection is closed. An NDJSON import keeps the complete batches that arrived.",
    ),
    "pin-unavailable": Kind(
        409, "The pinned model or index is no longer kept",
        "`pin` or a replay asks for a model, a state of the index, or a version of a document that "
        "is no longer kept. `gone` says which.",
    ),
    "job-conflict": Kind(
        409, "Conflict",
        "Another job or change, running or already made, conflicts with this request. `detail` "
        "says which. Wait until it is finished, or read the present state, then retry.",
    ),
    "precondition-failed": Kind(
        412, "The document has changed",
        "`If-Match` is not the document's current ETag. Read the document again, then repeat the "
        "change.",
    ),
    "payload-too-large": Kind(
        413, "The body is too large",
        "The body is over the limit `FOOTNOTE_MAX_BODY`. Documents can be sent as NDJSON, which is "
        "read as a stream and has no limit.",
    ),
    "unsupported-media-type": Kind(
        415, "Unsupported content type",
        "Send `Content-Type: application/json`; `POST /documents` also takes "
        "`application/x-ndjson`.",
    ),
    "queue-full": Kind(
        429, "Too many requests at once",
        "The queue is full, so this request was refused before any work was done on it. Retry "
        "after the seconds in `Retry-After`.",
    ),
    "not-ready": Kind(
        503, "Not ready yet",
        "What this request needs is still loading, or failed to load. `/health/ready` says which "
        "stage the server is at and why.",
    ),
    "insufficient-storage": Kind(
        507, "No space left on the disk",
        "Nothing was written: the disk is full or refuses to write. Reading still works. Free some "
        "space and retry; no restart is needed.",
    ),
    "internal": Kind(
        500, "Internal server error",
        "The request is not at fault. The server's log has the details under the `request_id`.",
    ),
}  # fmt: skip


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
    kept = list(takewhile(_PLAIN_KEY.fullmatch, parts[1:]))
    return "/".join([parts[0], *kept])[:200]


def invalid(pointer: str, detail: str) -> Problem:
    """A ``validation`` problem with one wrong place."""
    return Problem("validation", "The request is not valid.", errors=[FieldError(pointer, detail)])
