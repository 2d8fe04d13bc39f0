"""From the responses of the model to an answer: one body, or a stream of events. Knows neither chat nor HTTP."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

import orjson

from gateway.answers.outputs import Outputs
from gateway.errors import GatewayError, InternalFault
from gateway.sse import DONE, KEEP_ALIVE, Frames, error_event
from gateway.tensors import ChatOutput

log = logging.getLogger("trimodal.gateway")


class Head(NamedTuple):
    """What all parts of an answer share; `created` is in seconds since 1970."""

    id: str
    created: int
    model: str

    def body(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def event(self, kind: str) -> bytes:
        """The beginning of an event, without the closing brace of its object."""
        return b"data: " + orjson.dumps(self.body(kind))[:-1]


class Collected(Protocol):
    def add(self, output: ChatOutput) -> object: ...
    def body(self) -> dict[str, Any]: ...


class Streamed(Protocol):
    """`opening` comes before the first frame, but is asked for after it: the prompt has been counted by then."""

    keep_alive: bytes

    def opening(self) -> bytes: ...
    def frame(self, output: ChatOutput) -> bytes: ...
    def closing(self) -> bytes: ...
    def failed(self, error: GatewayError) -> bytes: ...


class ChunkStream:
    """How the streams of chat and text completions end: usage when asked, DONE; or an error and nothing after it."""

    keep_alive = KEEP_ALIVE

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage

    def usage_event(self) -> bytes:
        raise NotImplementedError

    def closing(self) -> bytes:
        return (self.usage_event() if self._include_usage else b"") + DONE

    def failed(self, error: GatewayError) -> bytes:
        return error_event(error)


async def collect(reply: Collected, outputs: Outputs) -> dict[str, Any]:
    while outputs.num_open:
        reply.add(await outputs.next())
    return reply.body()


async def frames(reply: Streamed, outputs: Outputs) -> Frames:
    """Opening, frames and closing; or the event of an error and nothing after it."""
    try:
        # Both in one piece: the first response is there already, and one write is one packet.
        first = reply.frame(await outputs.next())
        yield reply.opening() + first
        while outputs.num_open:
            if frame := reply.frame(await outputs.next()):
                yield frame
    except GatewayError as error:
        yield reply.failed(error)
        return
    except Exception:  # a fault of ours after the status line: all that is left is an event
        log.exception("internal fault in a stream")
        yield reply.failed(InternalFault())
        return
    yield reply.closing()
