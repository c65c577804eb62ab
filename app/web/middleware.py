"""Around every request: an id, one line in the log, counters, and a last net for faults."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.errors import problem_answer, problem_of

logger = logging.getLogger("footnote.access")

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """ASGI middleware. A plain one: Starlette's base class would buffer streams."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        token = REQUEST_ID.set(request_id)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.append((b"x-request-id", request_id.encode()))
                headers.append((b"x-content-type-options", b"nosniff"))
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:  # the last net: whatever it was, the client gets an answer
            logger.exception("a request failed", extra={"path": scope["path"][:200]})
            if status == 0:
                await problem_answer(problem_of(error), scope)(scope, receive, sending)
        finally:
            account(scope, status, time.perf_counter() - began)
            REQUEST_ID.reset(token)


def account(scope: Scope, status: int, seconds: float) -> None:
    """Count a request and log it."""
    route = getattr(scope.get("route"), "path", "unmatched")
    metrics = scope["app"].state.footnote.metrics
    metrics.observe_request(route, scope["method"], status, seconds)
    quiet = route.startswith("/health") or route == "/metrics"
    logger.log(
        logging.DEBUG if quiet else logging.INFO,
        "%s %s %d",
        scope["method"],
        route,
        status,
        extra={"route": route, "status": status, "ms": round(1000 * seconds, 2)},
    )


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the id of the request it was logged in."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        for key in ("route", "status", "ms", "path"):
            if hasattr(record, key):
                line[key] = getattr(record, key)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(form: str, level: str) -> None:
    """Log to standard error in the chosen form. Called once by the command that serves."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Footnote logs each request itself, with its id.
    logging.getLogger("uvicorn.access").disabled = True
