"""Refusals at the door: how many requests at once, and how many bytes each may bring. Queues nothing."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Message, Receive

from gateway.errors import Overloaded, PayloadTooLarge


class Admission:
    """Counts running requests; `repr` shows the count."""

    def __init__(self, max_concurrency: int) -> None:
        self.max_concurrency = max_concurrency
        self.running = 0

    def __repr__(self) -> str:
        return f"<Admission {self.running}/{self.max_concurrency}>"

    def acquire(self) -> Permit:
        """Takes one place; raises Overloaded at once when there is none."""
        if self.running >= self.max_concurrency:
            raise Overloaded(f"The server handles {self.max_concurrency} requests at once; try again shortly.")
        self.running += 1
        return Permit(self)


class Permit:
    """One place, given back by `release` or at the end of a `with`, whichever is first."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        if self._admission is not None:
            self._admission.running -= 1
            self._admission = None


def bounded(request: Request, max_bytes: int) -> Request:
    """Returns the request with a body that raises PayloadTooLarge beyond `max_bytes`, at once if its length is told."""
    # A chunked body tells no length; that one is counted as it comes.
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    return Request(request.scope, _counted(request.receive, max_bytes))


def _counted(receive: Receive, max_bytes: int) -> Receive:
    left = max_bytes

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(max_bytes)
        return message

    return counted


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {max_bytes} bytes.")
