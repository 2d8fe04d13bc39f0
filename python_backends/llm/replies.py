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

from python_backends.errors import DeadlineExceeded, DependencyDown
from python_backends.llm.detokenizer import Detokenizer, token_bytes
from python_backends.metrics import AbortReason, RequestMetrics
from python_backends.types import FinishReason, GenerationRequest, SamplingParams, TokenEvent, TokenLogprob

Array = np.ndarray[Any, Any]

# Each question whether a client is still there is a trip to the server's process and back.
_POLL_S = 0.05
_QUESTIONS_PER_POLL = 5


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
    """One response or many, `interval` tokens each; `echo` is text to say first.

    With `compact` the responses between the first and the last of a sequence hold no more than what is new.
    """

    stream: bool = True
    echo: str = ""
    interval: int = 1
    compact: bool = False


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
        self.id, self.name = request.id, name
        self.channel = channel
        # Set before the engine hears of it, so that whoever submits the request can tell an overtaking cancel.
        self.stopped = False
        self.finish_reason: FinishReason | None = None
        self.timings = timings
        self.num_prompt_tokens = len(request.prompt_ids)
        self._stop_token_ids = request.sampling.stop_token_ids
        self._compact = style.compact
        self._open = {index: _Continuation(request.sampling, tokenizer, style) for index in range(request.sampling.n)}
        self._constant = {
            "num_input_tokens": _int(self.num_prompt_tokens),
            "num_image_tokens": _int(sum(image.end - image.start for image in request.images)),
        }

    def wants(self, index: int) -> bool:
        """Whether anybody still waits for more of that sequence."""
        return index in self._open and not self.stopped

    def take(self, event: TokenEvent) -> bool:
        """Handle an event and send what is due. Returns whether the reply is over."""
        if event.error is not None:
            self.channel.fail(event.error)
            return True
        # Behind a stop word the engine may have said more before it heard of it.
        if (continuation := self._open.get(event.index)) is None:
            return False
        if event.token_id is not None and not self.timings.first_token:
            self.timings.first_token = time.monotonic()
        stop = continuation.add(event)
        if event.finish_reason is None and not stop:
            if continuation.is_due:
                self._go_on(continuation, event)
            return False
        self._finish(continuation, event, stop or continuation.add_rest())
        return not self._open

    def _finish(self, continuation: _Continuation, event: TokenEvent, stop: str) -> None:
        del self._open[event.index]
        reason = FinishReason.STOP if stop else event.finish_reason or FinishReason.ABORT
        self.finish_reason = reason
        # As in vLLM, the checkpoint's own end-of-text is no reason worth naming.
        stop_reason = stop or (str(event.stop_token_id) if event.stop_token_id in self._stop_token_ids else "")
        self._send(continuation, event, reason.value.encode(), stop_reason.encode())

    def _go_on(self, continuation: _Continuation, event: TokenEvent) -> None:
        if self._compact and continuation.sent_any:
            index = {"sequence_index": _int(event.index)} if event.index else {}
            self.channel.send(index | continuation.take_news())
        else:
            self._send(continuation, event)

    def _send(self, continuation: _Continuation, event: TokenEvent, finish: bytes = b"", stop: bytes = b"") -> None:
        """A whole response, with every output of the contract."""
        final = not self._open
        outputs = {
            "sequence_index": _int(event.index),
            "finish_reason": _bytes(finish),
            "stop_reason": _bytes(stop),
            "num_cached_tokens": _int(event.num_cached_tokens),
            "timings": _bytes(self.timings.as_json() if final else b""),
        }
        self.channel.send({**outputs, "logprobs": _bytes(b""), **continuation.take_news(), **self._constant}, final)


class _Continuation:
    """One of the reply's sequences: the text and counts that were not sent yet."""

    def __init__(self, sampling: SamplingParams, tokenizer: Tokenizer, style: ReplyStyle) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(
            tokenizer,
            sampling.stop,
            sampling.include_stop_str_in_output,
            sampling.skip_special_tokens,
            sampling.min_tokens,
        )
        self._interval = style.interval if style.stream else sys.maxsize
        self._text = style.echo
        self._num_tokens = 0
        self._logprobs: list[dict[str, Any]] = []
        # A stream's first token goes out at once, whatever the interval.
        self.sent_any = not style.stream

    @property
    def is_due(self) -> bool:
        return (self._num_tokens >= self._interval or not self.sent_any) and bool(self._text or self._logprobs)

    def add(self, event: TokenEvent) -> str:
        """Count the token and, unless it is the control token that ended the text, say it; a stop word it completes."""
        if event.token_id is None:
            return ""
        self._num_tokens += 1
        if event.logprob is not None:
            self._logprobs.append(self._describe(event.token_id, event.logprob))
        if event.stop_token_id is not None:
            return ""
        new = self._detokenizer.push(event.token_id)
        self._text += new.text
        return new.stop

    def add_rest(self) -> str:
        """The sequence is over: what was held back, and the stop word if that has one."""
        rest = self._detokenizer.flush()
        self._text += rest.text
        return rest.stop

    def take_news(self) -> dict[str, Array]:
        """The outputs that hold something new; `logprobs` only if there are any."""
        outputs = {"text_output": _bytes(self._text.encode()), "num_output_tokens": _int(self._num_tokens)}
        if self._logprobs:
            outputs["logprobs"] = _bytes(orjson.dumps(self._logprobs))
            self._logprobs = []
        self._text, self._num_tokens, self.sent_any = "", 0, True
        return outputs

    def _describe(self, token_id: int, logprob: TokenLogprob) -> dict[str, Any]:
        top = [self._token(other, value) for other, value in logprob.top]
        return {**self._token(token_id, logprob.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(token_bytes(self._tokenizer, token_id))}


class Outbox:
    """The thread that sends replies. It calls `cancel` for what ends before the engine is done: `Engine.cancel`."""

    def __init__(self, cancel: Callable[[int, int | None], None], metrics: RequestMetrics | None = None) -> None:
        self._cancel = cancel
        self._metrics = metrics or RequestMetrics()
        self._replies: dict[int, Reply] = {}
        self._events: queue.SimpleQueue[tuple[int, TokenEvent] | Reply | str | None] = queue.SimpleQueue()
        self._last_poll = time.monotonic()
        self._unasked: list[int] = []
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
            self._metrics.end(reply.id, "error", "unload")
        self._replies.clear()
        self._metrics.flush(force=True)

    def _loop(self) -> None:
        while (item := self._next()) is not None:
            if isinstance(item, Reply):
                self._replies[item.id] = item
                self._metrics.begin(item.id, item.num_prompt_tokens, item.timings.arrived)
            elif isinstance(item, str):
                self._stop(item)
            else:
                self._deliver(*item)
            self._look_around()

    def _next(self) -> tuple[int, TokenEvent] | Reply | str | None:
        while True:
            try:
                return self._events.get(timeout=_POLL_S if self._replies or self._metrics.is_busy else None)
            except queue.Empty:
                self._look_around()

    def _look_around(self) -> None:
        self._poll_clients()
        self._metrics.flush()

    def _stop(self, name: str) -> None:
        for reply in self._replies.values():
            if name and reply.name == name:
                reply.stopped = True
                self._cancel(reply.id, None)

    def _deliver(self, request_id: int, event: TokenEvent) -> None:
        """Pass an event on, and stop an engine that works for nobody.

        A cancel that overtook its request was lost, so it is said again at each sign of life of what nobody wants.
        """
        reply = self._replies.get(request_id)
        self._metrics.see(request_id, event)
        if reply is not None and _take(reply, event):
            del self._replies[request_id]
            self._metrics.end(request_id, *_outcome(reply, event))
            reply = None
        if event.finish_reason is None and event.error is None and not (reply and reply.wants(event.index)):
            self._cancel(request_id, event.index if reply and not reply.stopped else None)

    def _poll_clients(self) -> None:
        """Asks a few replies in turn, so that the questions stay as rare however many are open."""
        now = time.monotonic()
        if now - self._last_poll < _POLL_S:
            return
        self._last_poll = now
        for reply in [reply for reply in self._whose_turn_it_is() if _has_left(reply)]:
            reply.stopped = True
            self._cancel(reply.id, None)
            del self._replies[reply.id]
            self._metrics.end(reply.id, FinishReason.ABORT.value, "client_gone")
            with suppress(Exception):  # the stream is gone, and with it whoever could be told
                reply.channel.close()

    def _whose_turn_it_is(self) -> list[Reply]:
        """Nobody is asked again before all others were asked."""
        if not self._unasked:
            self._unasked = list(self._replies)
        turn, self._unasked = self._unasked[:_QUESTIONS_PER_POLL], self._unasked[_QUESTIONS_PER_POLL:]
        return [self._replies[request_id] for request_id in turn if request_id in self._replies]


def _has_left(reply: Reply) -> bool:
    try:
        return reply.channel.is_cancelled()
    except Exception:  # a stream that cannot even be asked is gone
        return True


def _outcome(reply: Reply, event: TokenEvent) -> tuple[str, AbortReason | None]:
    """How a reply ended, and the reason if that was before its time."""
    if event.error is not None or reply.finish_reason is None:
        return "error", "deadline" if isinstance(event.error, DeadlineExceeded) else "error"
    if reply.finish_reason is FinishReason.ABORT:
        return "abort", "stop" if reply.stopped else "unload"
    return reply.finish_reason.value, None


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
