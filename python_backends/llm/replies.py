"""The way back: an engine's events become text, tensors and responses.

    engine thread --TokenEvent--> Outbox queue --> outbox thread: detokenize, build tensors, send

The engine never waits for a send. The outbox thread also asks Triton now and then whether a client has left, because a
request that still waits or reads its prompt sends nothing that could fail.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson
from tokenizers import Tokenizer

from python_backends.errors import DependencyDown
from python_backends.llm.detokenizer import Detokenizer, token_bytes
from python_backends.types import FinishReason, GenerationRequest, TokenEvent, TokenLogprob

Array = np.ndarray[Any, Any]

_POLL_S = 0.02
_POLL_S_PER_REQUEST = 0.002


class Channel(Protocol):
    """What this module asks of `triton_io.Responder`."""

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def close(self) -> None: ...
    def is_cancelled(self) -> bool: ...


@dataclass
class Timings:
    """Moments on the monotonic clock, in seconds."""

    arrived: float = field(default_factory=time.monotonic)
    prepared: float = 0.0
    first_token: float = 0.0

    def as_json(self) -> bytes:
        """Seconds from the arrival: to the finished prompt, to the first token, to the end."""
        total = time.monotonic() - self.arrived
        first = self.first_token - self.arrived if self.first_token else total
        return orjson.dumps({"prepare_s": self.prepared - self.arrived, "first_token_s": first, "total_s": total})


@dataclass(frozen=True)
class ReplyStyle:
    """One response or many, `interval` tokens each; `echo` is text to say first."""

    stream: bool = True
    echo: str = ""
    interval: int = 1


class Reply:
    """Everything that one request still has to say. Used by the outbox thread only, once it is registered."""

    def __init__(
        self,
        request: GenerationRequest,
        name: str,
        channel: Channel,
        tokenizer: Tokenizer,
        style: ReplyStyle,
        timings: Timings,
    ) -> None:
        sampling = request.sampling
        self.id, self.name = request.id, name
        self.channel = channel
        self.stopped = False
        self._timings = timings
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(
            tokenizer, sampling.stop, sampling.include_stop_str_in_output, sampling.skip_special_tokens
        )
        self._stop_token_ids = sampling.stop_token_ids
        self._interval = style.interval if style.stream else sys.maxsize
        self._text = style.echo
        self._num_tokens = 0
        self._logprobs: list[dict[str, Any]] = []
        # A stream's first token goes out at once, whatever the interval.
        self._sent_any = not style.stream
        self._constant = {
            "sequence_index": _int(0),
            "num_input_tokens": _int(len(request.prompt_ids)),
            "num_image_tokens": _int(sum(len(image.features) for image in request.images)),
        }

    def take(self, event: TokenEvent) -> bool:
        """Handle an event and send what is due. Returns whether the reply is over."""
        if event.error is not None:
            self.channel.fail(event.error)
            return True
        stop = self._add(event)
        if event.finish_reason is None and not stop:
            self._send_if_due(event)
            return False
        if not stop:
            rest = self._detokenizer.flush()
            self._text += rest.text
            stop = rest.stop
        self._finish(event, stop)
        return True

    def _add(self, event: TokenEvent) -> str:
        """Count the token and, unless it is the control token that ended the text, say it."""
        if event.token_id is None:
            return ""
        if not self._timings.first_token:
            self._timings.first_token = time.monotonic()
        self._num_tokens += 1
        if event.logprob is not None:
            self._logprobs.append(self._describe(event.token_id, event.logprob))
        if event.stop_token_id is not None:
            return ""
        new = self._detokenizer.push(event.token_id)
        self._text += new.text
        return new.stop

    def _send_if_due(self, event: TokenEvent) -> None:
        due = self._num_tokens >= self._interval or not self._sent_any
        if due and (self._text or self._logprobs):
            self._send(event, b"", b"", b"")

    def _finish(self, event: TokenEvent, stop: str) -> None:
        reason = FinishReason.STOP if stop else event.finish_reason or FinishReason.ABORT
        # As in vLLM, the checkpoint's own end-of-text is no reason worth naming.
        stop_reason = stop or (str(event.stop_token_id) if event.stop_token_id in self._stop_token_ids else "")
        self._send(event, reason.value.encode(), stop_reason.encode(), self._timings.as_json(), final=True)

    def _send(self, event: TokenEvent, finish: bytes, stop: bytes, timings: bytes, final: bool = False) -> None:
        outputs = {
            "text_output": _bytes(self._text.encode()),
            "finish_reason": _bytes(finish),
            "stop_reason": _bytes(stop),
            "num_output_tokens": _int(self._num_tokens),
            "num_cached_tokens": _int(event.num_cached_tokens),
            "logprobs": _bytes(orjson.dumps(self._logprobs) if self._logprobs else b""),
            "timings": _bytes(timings),
        }
        self._text, self._num_tokens, self._sent_any = "", 0, True
        self._logprobs = []
        self.channel.send({**outputs, **self._constant}, final)

    def _describe(self, token_id: int, logprob: TokenLogprob) -> dict[str, Any]:
        top = [self._token(other, value) for other, value in logprob.top]
        return {**self._token(token_id, logprob.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(token_bytes(self._tokenizer, token_id))}


class Outbox:
    """The thread that sends replies. It calls `cancel` with the id of a request that ends before its engine is done."""

    def __init__(self, cancel: Callable[[int], None]) -> None:
        self._cancel = cancel
        self._replies: dict[int, Reply] = {}
        self._events: queue.SimpleQueue[tuple[int, TokenEvent] | Reply | str | None] = queue.SimpleQueue()
        self._last_poll = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)
        self._thread.start()

    def register(self, reply: Reply) -> None:
        """Make the reply known before its first event can arrive."""
        self._events.put(reply)

    def put(self, request_id: int, event: TokenEvent) -> None:
        self._events.put((request_id, event))

    def stop(self, name: str) -> None:
        """End all requests of that client-given name; their replies say `abort`."""
        self._events.put(name)

    def close(self) -> None:
        """Send what is queued and end what is still open, then stop."""
        self._events.put(None)
        self._thread.join()
        for reply in self._replies.values():
            _fail(reply, DependencyDown("the model is being unloaded"))
        self._replies.clear()

    def _loop(self) -> None:
        while (item := self._next()) is not None:
            if isinstance(item, Reply):
                self._replies[item.id] = item
            elif isinstance(item, str):
                self._stop(item)
            else:
                self._deliver(*item)
            self._poll_clients()

    def _next(self) -> tuple[int, TokenEvent] | Reply | str | None:
        while True:
            try:
                return self._events.get(timeout=_POLL_S if self._replies else None)
            except queue.Empty:
                self._poll_clients()

    def _stop(self, name: str) -> None:
        for reply in self._replies.values():
            if name and reply.name == name:
                reply.stopped = True
                self._cancel(reply.id)

    def _deliver(self, request_id: int, event: TokenEvent) -> None:
        """Pass an event on, and stop an engine that works for nobody.

        A cancel that overtook its request was lost, so it is said again whenever such a request gives a sign of life.
        """
        reply = self._replies.get(request_id)
        if reply is not None and _take(reply, event):
            del self._replies[request_id]
        wanted = request_id in self._replies and not self._replies[request_id].stopped
        if not wanted and event.finish_reason is None and event.error is None:
            self._cancel(request_id)

    def _poll_clients(self) -> None:
        """Each question costs a trip to the server's process, so the more replies are open the rarer they are asked."""
        now = time.monotonic()
        if now - self._last_poll < max(_POLL_S, _POLL_S_PER_REQUEST * len(self._replies)):
            return
        self._last_poll = now
        for reply in [reply for reply in self._replies.values() if _has_left(reply)]:
            self._cancel(reply.id)
            del self._replies[reply.id]
            with suppress(Exception):  # the stream is gone, and with it whoever could be told
                reply.channel.close()


def _has_left(reply: Reply) -> bool:
    try:
        return reply.channel.is_cancelled()
    except Exception:  # a stream that cannot even be asked is gone
        return True


def _take(reply: Reply, event: TokenEvent) -> bool:
    """Whether the reply is over; a failure ends it alone, for the others share the thread."""
    try:
        return reply.take(event)
    except Exception as error:  # becomes the error reply
        _fail(reply, error)
        return True


def _fail(reply: Reply, error: BaseException) -> None:
    with suppress(Exception):  # the stream is gone, and with it whoever could be told
        reply.channel.fail(error)


def _int(value: int) -> Array:
    return np.array([value], np.int32)


def _bytes(value: bytes) -> Array:
    return np.array([value], np.object_)
