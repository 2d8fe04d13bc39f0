"""Says a request's own prompt, at a chosen pace. Needs a tokenizer and no torch.

It keeps the contract of every engine: order, limits, priorities, deadlines, aborts. What it says costs nothing, so what
a load test measures is the rest: gateway, Triton, tokenizer, replies.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import insort
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from python_backends.admission import check_request, turn
from python_backends.engine import EngineOptions, EngineStats
from python_backends.errors import BackendError, DeadlineExceeded, DependencyDown, QueueFull, Unsupported
from python_backends.types import Emit, FinishReason, GenerationRequest, TokenEvent, TokenLogprob

_DEFAULT_MODEL_LEN = 1 << 15
_LONGEST_WAIT_S = 0.01


@dataclass(eq=False)
class Echo:
    """One sequence of a request: it says the prompt once, or with `ignore_eos` over and over, up to `max_tokens`."""

    request: GenerationRequest
    emit: Emit
    index: int
    max_tokens: int
    order: tuple[int, float, int, int]
    arrived: float
    started: float = 0.0
    num_said: int = 0

    def next_event(self) -> TokenEvent:
        sampling, prompt = self.request.sampling, self.request.prompt_ids
        token_id = prompt[self.num_said % len(prompt)]
        self.num_said += 1
        is_stop = self.num_said > sampling.min_tokens and token_id in sampling.stop_token_ids
        is_whole = self.num_said >= max(len(prompt), sampling.min_tokens) and not sampling.ignore_eos
        reason = None
        if is_stop or is_whole:
            reason = FinishReason.STOP
        elif self.num_said >= self.max_tokens:
            reason = FinishReason.LENGTH
        logprob = TokenLogprob(0.0, ((token_id, 0.0),) if sampling.top_logprobs else ()) if sampling.logprobs else None
        stop_token_id = token_id if is_stop else None
        queued_s = self.started - self.arrived
        return TokenEvent(token_id, logprob, reason, stop_token_id, index=self.index, queued_s=queued_s)


@dataclass(frozen=True)
class Cancel:
    """A message to the loop: end this request, or one of its sequences."""

    request_id: int
    index: int | None


@dataclass
class Line:
    """Sequences in order, those that wait and those that run."""

    waiting: list[Echo] = field(default_factory=list)
    running: list[Echo] = field(default_factory=list)

    @property
    def everyone(self) -> list[Echo]:
        return [*self.waiting, *self.running]

    def remove(self, echo: Echo) -> None:
        (self.running if echo in self.running else self.waiting).remove(echo)


class EchoEngine:
    """`echo_tokens_per_second` tokens for each running sequence; 0 is as fast as can be."""

    def __init__(self, options: EngineOptions) -> None:
        file = Path(options.model) / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"parameter 'model' is {options.model!r}; the echo engine needs a tokenizer.json there")
        self._vocab_size: int = Tokenizer.from_file(str(file)).get_vocab_size()
        self.max_model_len = options.max_model_len or _DEFAULT_MODEL_LEN
        self._options, self._rate = options, options.echo_tokens_per_second
        self._line = Line()
        self._inbox: queue.SimpleQueue[list[Echo] | Cancel | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<EchoEngine {len(self._line.waiting)} waiting, {len(self._line.running)} running>"

    @property
    def stats(self) -> EngineStats:
        return EngineStats(len(self._line.running), len(self._line.waiting))

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Queue a request; see `Engine.submit`."""
        if not self._thread.is_alive():
            raise DependencyDown("the engine is closed")
        if request.sampling.guide:
            raise Unsupported("the echo engine guides nothing", "guided_decoding_guide_type")
        max_tokens = check_request(request, self.max_model_len, self._vocab_size, self._options.max_num_seqs)
        arrived = time.monotonic()
        first = turn(request.sampling.priority, arrived, self._options.priority_ageing_s)
        indices = range(request.sampling.n)
        self._inbox.put([Echo(request, emit, i, max_tokens, (*first, request.id, i), arrived) for i in indices])

    def cancel(self, request_id: int, index: int | None = None) -> None:
        self._inbox.put(Cancel(request_id, index))

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()
        self._end_all()

    def _loop(self) -> None:
        try:
            while self._take_messages():
                now = time.monotonic()
                self._drop_expired(now)
                self._admit(now)
                for echo in tuple(self._line.running):
                    self._say(echo, now)
        finally:
            self._end_all()

    def _take_messages(self) -> bool:
        """Handle the inbox, waiting while there is nothing to say yet; False when the engine is to close."""
        patience = min(1 / self._rate, _LONGEST_WAIT_S) if self._rate else 0.0
        while True:
            try:
                message = self._inbox.get(timeout=patience if self._line.everyone else None)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, Cancel):
                self._cancel(message)
            else:
                self._queue(message)
            # One wait for each turn; then whatever else has come.
            patience = 0.0

    def _queue(self, echoes: list[Echo]) -> None:
        num_waiting, free = len(self._line.waiting), self._options.max_num_seqs - len(self._line.running)
        if num_waiting >= self._options.max_waiting + free:
            limit = self._options.max_waiting
            self._fail(echoes[0], QueueFull(f"{num_waiting} requests wait already; the limit is {limit}"))
            return
        for echo in echoes:
            insort(self._line.waiting, echo, key=lambda echo: echo.order)

    def _cancel(self, cancel: Cancel) -> None:
        for echo in self._line.everyone:
            if echo.request.id == cancel.request_id and cancel.index in (None, echo.index):
                self._end(echo, TokenEvent(finish_reason=FinishReason.ABORT, index=echo.index))

    def _drop_expired(self, now: float) -> None:
        for echo in self._line.everyone:
            deadline = echo.request.deadline
            if deadline is not None and deadline <= now and echo in self._line.everyone:
                self._fail(echo, DeadlineExceeded("the deadline of the request has passed"))

    def _admit(self, now: float) -> None:
        while self._line.waiting and len(self._line.running) < self._options.max_num_seqs:
            echo = self._line.waiting.pop(0)
            echo.started = now
            self._line.running.append(echo)

    def _say(self, echo: Echo, now: float) -> None:
        due = 1 + int((now - echo.started) * self._rate) if self._rate else echo.num_said + 1
        while echo.num_said < due:
            event = echo.next_event()
            if event.finish_reason:
                self._end(echo, event)
                return
            echo.emit(event)

    def _fail(self, echo: Echo, error: BackendError) -> None:
        for sibling in self._line.everyone:
            if sibling.request is echo.request:
                self._line.remove(sibling)
        echo.emit(TokenEvent(error=error, index=echo.index))

    def _end(self, echo: Echo, event: TokenEvent) -> None:
        self._line.remove(echo)
        echo.emit(event)

    def _end_all(self) -> None:
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, list):
                self._line.waiting += message
        for echo in self._line.everyone:
            self._end(echo, TokenEvent(finish_reason=FinishReason.ABORT, index=echo.index))
