"""Server-sent events: frames of bytes, and the response that carries them. Knows no tensors and no OpenAI chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.disconnect import until_disconnect
from gateway.errors import ClientGone, GatewayError

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

Frames = AsyncGenerator[bytes, None]


def error_event(error: GatewayError) -> bytes:
    """After the first byte an error travels in the stream; nothing may follow it, not even DONE."""
    return b"data: " + error.to_json() + b"\n\n"


class EventStream(Response):
    """Sends frames as they come, a comment when there are none, and stops at once when the client leaves.

    It owns `owner` (the upstream call and the permit) and leaves it on every way out. Starlette's own streaming
    response is not used: it leaves a suspended generator, and with it the upstream call, to the garbage collector.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: Frames,
        owner: AbstractAsyncContextManager[object],
        keep_alive_s: float,
        on_gone: Callable[[], None],
    ) -> None:
        self.frames = frames
        self.owner = owner
        self.keep_alive_s = keep_alive_s
        self.on_gone = on_gone
        # What Response.__init__ would set; its body and content length have no place here.
        self.status_code = 200
        self.background = None
        self._sent = 0
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.owner:
            try:
                await until_disconnect(receive, self._send_frames(send))
            except ClientGone:
                self.on_gone()

    async def _send_frames(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        comments = asyncio.ensure_future(self._send_comments(send))
        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    self._sent += 1
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
        finally:
            # No comment may follow the last chunk.
            comments.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_comments(self, send: Send) -> None:
        """One timer per interval, not per frame, so that a busy stream pays nothing for it."""
        while True:
            seen = self._sent
            await asyncio.sleep(self.keep_alive_s)
            if seen == self._sent:
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
