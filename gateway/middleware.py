"""The outermost layer of a request: its id, its log line, its metrics, and the answer to a fault nobody expected."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ClientGone, InternalFault
from gateway.metrics import Metrics
from gateway.responses import error_response

log = logging.getLogger("trimodal.gateway")

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
# Probes ask every second or so, and would drown everything else.
QUIET_ROUTES = ("/liveness", "/readiness", "/health", "/metrics")

# What may stand in a log line and in a header without harm.
_SANE_ID = re.compile(rb"[\w.:\-]{1,128}")


class RequestScope:
    """Wraps the app; plain ASGI, because a stream passes through here event by event."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        REQUEST_ID.set(request_id)
        status = 0
        started = time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, tagged)
        except Exception:  # a fault of ours: logged here, and answered below with a fixed text
            log.exception("internal fault")
            # After the status line nothing can be put right; the server then closes the connection.
            if status == 0:
                await error_response(InternalFault(), scope["path"])(scope, receive, tagged)
        finally:
            self.metrics.in_flight.dec()
            self._record(scope, status or ClientGone.status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        level = logging.DEBUG if route in QUIET_ROUTES else logging.INFO
        log.log(level, "%s %r %d %.1f ms", scope["method"], scope["path"][:200], status, seconds * 1000)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's own id when it is safe to log and to send back, else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
