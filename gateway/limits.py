"""Refusals at the door: how many requests at once and how often, and how many bytes each may bring. Queues nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar

from starlette.requests import Request
from starlette.types import Message, Receive

from gateway.errors import Overloaded, PayloadTooLarge, rate_limited
from gateway.keys import ApiKey

RATE_HEADERS = [
    f"x-ratelimit-{what}-{rate}" for rate in ("requests", "tokens") for what in ("limit", "remaining", "reset")
]


class TokenBucket:
    """Holds what a minute allows and fills evenly. What is known only afterwards may overdraw it."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._now = now
        self._at = now()

    def __repr__(self) -> str:
        return f"<TokenBucket {self.level:.1f}/{self.per_minute}>"

    @property
    def level(self) -> float:
        now = self._now()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def take(self, amount: int) -> None:
        self._level = self.level - amount

    def seconds_until(self, level: float) -> float:
        return max(0.0, level - self.level) * 60 / self.per_minute


class Caller:
    """Whoever holds one API key: its limits, and what it has used of them in this process."""

    def __init__(self, key: ApiKey | None = None) -> None:
        self.name = key.name if key else "anyone"
        self.digest = key.sha256 if key else ""
        self.cache_salt = key.cache_salt if key else None
        self.running = 0
        self._max_running = key.max_concurrency if key else None
        # Without keys there is nobody to tell apart.
        self.is_admin = key is None or key.admin
        self._models = frozenset(key.models) if key and key.models is not None else None
        rates = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute} if key else {}
        self._buckets = {what: TokenBucket(rate) for what, rate in rates.items() if rate}

    def __repr__(self) -> str:
        return f"<Caller {self.name}, {self.running} running, {self._buckets}>"

    def enter(self) -> None:
        """Begins one request; raises Overloaded when the key has used up what it may."""
        if self._max_running is not None and self.running >= self._max_running:
            raise rate_limited(f"This key may have {self._max_running} requests at once.", 1)
        for what, bucket in self._buckets.items():
            if wait_s := bucket.seconds_until(1):
                raise rate_limited(f"This key may use {bucket.per_minute} {what} per minute.", wait_s)
        if "requests" in self._buckets:
            self._buckets["requests"].take(1)
        self.running += 1

    def leave(self) -> None:
        self.running -= 1

    def spend(self, num_tokens: int) -> None:
        """Counts the tokens of an answer at its end; an answer that ends is never cut off for them."""
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(num_tokens)

    def may_use(self, ids: Iterable[str]) -> bool:
        return self._models is None or not self._models.isdisjoint(ids)

    def rate_headers(self) -> dict[str, str]:
        """OpenAI's x-ratelimit headers, for the rates that this key has."""
        headers = {}
        for what, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{what}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, int(bucket.level)))
            headers[f"x-ratelimit-reset-{what}"] = _duration(bucket.seconds_until(bucket.per_minute))
        return headers


ANYONE = Caller()
# Set by the guard for the task of a request, and so for every task that it starts.
CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


class Admission:
    """Counts running requests; `repr` shows the count."""

    def __init__(self, max_concurrency: int) -> None:
        self.max_concurrency = max_concurrency
        self.running = 0

    def __repr__(self) -> str:
        return f"<Admission {self.running}/{self.max_concurrency}>"

    def acquire(self) -> Permit:
        """Takes one place, in the server and among those of the caller; raises Overloaded when there is none."""
        if self.running >= self.max_concurrency:
            raise Overloaded(f"The server handles {self.max_concurrency} requests at once; try again shortly.")
        caller = CALLER.get()
        caller.enter()
        self.running += 1
        return Permit(self, caller)


class Permit:
    """One place, given back by `release` or at the end of a `with`, whichever is first."""

    def __init__(self, admission: Admission, caller: Caller) -> None:
        self.caller = caller
        self._admission: Admission | None = admission

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        if self._admission is not None:
            self._admission.running -= 1
            self._admission = None
            self.caller.leave()


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


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.3g}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60)}s"
