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

# A write to a socket costs more than all else about an event: what follows a write so soon goes into one piece.
GATHER_S = 0.001
# Beyond so many waiting frames the client is slower than the model, and the model is read no further.
MAX_GATHERED = 256

Frames = AsyncGenerator[bytes, None]


def error_event(error: GatewayError) -> bytes:
    """After the first byte an error travels in the stream; nothing may follow it, not even DONE."""
    return b"data: " + error.to_json() + b"\n\n"


class EventStream(Response):
    """Sends frames as they come, `keep_alive` when there are none, and stops at once when the client leaves.

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
        keep_alive: bytes = KEEP_ALIVE,
    ) -> None:
        self.frames = frames
        self.owner = owner
        self.keep_alive_s = keep_alive_s
        self.on_gone = on_gone
        self.keep_alive = keep_alive
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
        writer = FrameWriter(send)
        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    self._sent += 1
                    await writer.write(frame)
            await writer.flush()
        finally:
            writer.close()
            # No comment may follow the last chunk.
            comments.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_comments(self, send: Send) -> None:
        """One timer per interval, not per frame, so that a busy stream pays nothing for it."""
        while True:
            seen = self._sent
            await asyncio.sleep(self.keep_alive_s)
            if seen == self._sent:
                await send({"type": "http.response.body", "body": self.keep_alive, "more_body": True})


class FrameWriter:
    """Sends a frame at once if none was sent in the last GATHER_S, else together with those that come until then."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._now = asyncio.get_running_loop().time
        self._sent_at = -GATHER_S
        self._waiting: list[bytes] = []
        self._flushing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<FrameWriter {len(self._waiting)} waiting>"

    async def write(self, frame: bytes) -> None:
        if self._flushing is None and self._now() - self._sent_at >= GATHER_S:
            await self._put(frame)
            return
        self._waiting.append(frame)
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush_soon())
        elif len(self._waiting) >= MAX_GATHERED:
            await self.flush()

    async def flush(self) -> None:
        """Returns when everything has been sent."""
        if self._flushing is not None:
            await self._flushing

    def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()

    async def _flush_soon(self) -> None:
        await asyncio.sleep(GATHER_S)
        while self._waiting:
            frames, self._waiting = b"".join(self._waiting), []
            await self._put(frames)
        self._flushing = None

    async def _put(self, frames: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})
        self._sent_at = self._now()
