"""Fails the open streams of models that are gone, because Triton does not.

When a model's Python process is killed, Triton leaves its open streams hanging for ever. The supervisor then unloads
and loads the model, and that shows in the repository index: the one sign this file goes by, beside a limit on silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context

from gateway.errors import GatewayError, UpstreamTimeout, model_unavailable
from gateway.triton import Triton, TritonStream

log = logging.getLogger("trimodal.gateway")


class StreamWatch:
    """Polls only while streams are open. `on_cancel` is told the reason: `model_down` or `idle`."""

    def __init__(self, interval_s: float, idle_s: float, on_cancel: Callable[[str], None]) -> None:
        self._interval_s = interval_s
        self._idle_s = idle_s
        self._on_cancel = on_cancel
        self._open: dict[TritonStream, frozenset[str]] = {}
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<StreamWatch {len(self._open)} open>"

    @contextmanager
    def watching(self, stream: TritonStream, entries: frozenset[str]) -> Iterator[TritonStream]:
        """Fails `stream` when one of `entries` stops being ready, or when it is silent for too long."""
        self._open[stream] = entries
        if self._task is None:
            # An empty context: the task outlives the request that starts it and must not log under its id.
            self._task = Context().run(asyncio.ensure_future, self._poll())
        try:
            yield stream
        finally:
            del self._open[stream]

    def let_end(self, entries: Iterable[str]) -> None:
        """Before these are unloaded: Triton lets their open streams end, and only the limit on silence still holds."""
        going = frozenset(entries)
        self._open.update({stream: frozenset() for stream, needed in self._open.items() if needed & going})

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(self._interval_s)
                self._fail_idle()
                # All at once: a replica that does not answer must not hide the dead models of another.
                await asyncio.gather(*map(self._fail_dead, {stream.triton for stream in self._open}))
        finally:
            self._task = None

    def _fail_idle(self) -> None:
        # One look over all streams costs less than a timer that every token would have to set anew.
        oldest = asyncio.get_running_loop().time() - self._idle_s
        for stream in [stream for stream in self._open if stream.last_response_at < oldest]:
            self._fail(stream, "idle", UpstreamTimeout(f"The model said nothing for {self._idle_s:g} seconds."))

    async def _fail_dead(self, triton: Triton) -> None:
        try:
            entries = await triton.index()
        except GatewayError:
            # Streams of a server that is gone end by themselves, with the connection.
            return
        ready = {name for name, entry in entries.items() if entry.ready}
        theirs = [(stream, needed) for stream, needed in self._open.items() if stream.triton is triton]
        for stream in [stream for stream, needed in theirs if not needed <= ready]:
            self._fail(stream, "model_down", model_unavailable())

    def _fail(self, stream: TritonStream, reason: str, error: GatewayError) -> None:
        log.warning("stream of %s failed: %s", sorted(self._open[stream]), reason)
        self._on_cancel(reason)
        stream.fail(error)
