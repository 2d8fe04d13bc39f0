"""Lets in who holds a key, and tells the rest of the gateway who that is. Every path is closed unless it is named."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Unauthorized
from gateway.keys import ApiKey, KeyRing, digest_of
from gateway.limits import CALLER, Caller
from gateway.responses import error_response

# A browser cannot set headers of a WebSocket; OpenAI's own client offers the key as a subprotocol instead.
_KEY_PROTOCOL = "openai-insecure-api-key."


class KeyGuard:
    """Wraps the app; plain ASGI, so that WebSockets are guarded as well."""

    def __init__(self, app: ASGIApp, ring: KeyRing, open_routes: Collection[str]) -> None:
        self._app = app
        self._ring = ring
        self._keys: list[ApiKey] = []
        self._callers: list[Caller] = []
        self._open_routes = frozenset(open_routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._open_routes:
            await self._app(scope, receive, send)
            return
        caller = self._find(_key_of(scope))
        if caller is None:
            message = "Give a valid API key: Authorization: Bearer KEY, or x-api-key: KEY."
            await error_response(Unauthorized(message), scope["path"])(scope, receive, send)
            return
        CALLER.set(caller)

        async def with_rates(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(caller.rate_headers())
            await send(message)

        await self._app(scope, receive, with_rates)

    def _find(self, key: str) -> Caller | None:
        self._renew()
        digest = digest_of(key)
        found = None
        # All of them, so that the time tells nothing about which one comes near.
        for caller in self._callers:
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        return found

    def _renew(self) -> None:
        """A key that stays as it was keeps what it has used."""
        keys = self._ring.current()
        if keys is not self._keys:
            known = {caller.digest: caller for caller in self._callers}
            before = {key.sha256: key for key in self._keys}
            self._callers = [known[key.sha256] if before.get(key.sha256) == key else Caller(key) for key in keys]
            self._keys = keys


def _key_of(scope: Scope) -> str:
    headers = Headers(scope=scope)
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    offers = scope.get("subprotocols") or []
    offered = next((offer for offer in offers if offer.startswith(_KEY_PROTOCOL)), "")
    return headers.get("x-api-key") or offered.removeprefix(_KEY_PROTOCOL)
