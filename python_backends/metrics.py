"""What the `llm` entry tells the metrics port: the table of metrics, and who counts them. See docs/metrics.md.

Knows no Triton: a `Board` makes the instruments. Each change of one is a trip to the server's process, so counters and
gauges are summed up here and told at most ten times a second, by the thread that sends the replies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from python_backends.engine import EngineStats
from python_backends.types import TokenEvent

_FLUSH_S = 0.1
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True)
class Metric:
    """One family; `buckets` are the upper bounds of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    buckets: tuple[float, ...] = ()


class Board(Protocol):
    """Where the numbers are shown. `labels` are those besides the model's name; `declare` shows a zero."""

    def declare(self, metric: Metric) -> None: ...
    def add(self, metric: Metric, labels: Mapping[str, str], value: float) -> None: ...
    def set(self, metric: Metric, value: float) -> None: ...
    def observe(self, metric: Metric, value: float) -> None: ...


QUEUE = Metric("trimodal_queue_time_seconds", "histogram", "From the arrival to the first step", _SECONDS)
FIRST = Metric("trimodal_time_to_first_token_seconds", "histogram", "From the arrival to the first token", _SECONDS)
INTER = Metric("trimodal_inter_token_time_seconds", "histogram", "Between two tokens of a sequence, sampled", _SECONDS)
TOTAL = Metric("trimodal_request_time_seconds", "histogram", "From the arrival to the end", _SECONDS)
RUNNING = Metric("trimodal_running_requests", "gauge", "Sequences that hold a part of the cache")
WAITING = Metric("trimodal_waiting_requests", "gauge", "Sequences that wait for room")
USED_TOKENS = Metric("trimodal_cache_used_tokens", "gauge", "Tokens in the KV cache that belong to running sequences")
KEPT_TOKENS = Metric("trimodal_cache_tokens", "gauge", "Tokens in the KV cache, remembered prefixes included")
CACHE_USE = Metric("trimodal_cache_usage_ratio", "gauge", "Share of the KV cache that belongs to running sequences")
PROMPT = Metric("trimodal_prompt_tokens", "counter", "Prompt tokens of the requests that began")
GENERATED = Metric("trimodal_generated_tokens", "counter", "Tokens generated")
QUERIED = Metric("trimodal_prefix_cache_queried_tokens", "counter", "Prompt tokens looked up in the prefix cache")
HIT = Metric("trimodal_prefix_cache_hit_tokens", "counter", "Prompt tokens taken from the prefix cache")
PREEMPTIONS = Metric("trimodal_preemptions", "counter", "Sequences sent back to waiting because the cache was full")
ENCODER_HITS = Metric("trimodal_encoder_cache_hits", "counter", "Images whose features were in the cache")
ENCODER_MISSES = Metric("trimodal_encoder_cache_misses", "counter", "Images whose features were not in the cache")
ENCODER_EVICTIONS = Metric("trimodal_encoder_cache_evictions", "counter", "Images whose features were dropped for room")
ENCODER_CALLS = Metric("trimodal_encoder_calls", "counter", "Images that the vision encoder was asked for")
ENCODER_BYTES = Metric("trimodal_encoder_cache_bytes", "gauge", "Image features in the cache")
REQUESTS = Metric("trimodal_requests", "counter", "Requests that ended, by finish_reason: stop, length, abort, error")
ABORTS = Metric("trimodal_aborts", "counter", "Requests that ended early, by reason")

AbortReason = Literal["client_gone", "stop", "deadline", "error", "unload"]
_UNLABELLED = (QUEUE, FIRST, INTER, TOTAL, PROMPT, GENERATED, QUERIED, HIT, PREEMPTIONS)
_ENCODER = (ENCODER_HITS, ENCODER_MISSES, ENCODER_EVICTIONS, ENCODER_CALLS)
# Enough for a true picture of the gaps between tokens, of which there may be thousands in this time.
_GAPS_PER_FLUSH = 32


@dataclass(frozen=True)
class EncoderCacheStats:
    """The cache of image features since its start, and what it holds now."""

    num_hits: int = 0
    num_misses: int = 0
    num_evictions: int = 0
    num_bytes: int = 0
    num_calls: int = 0


class SilentBoard:
    """For those who do not want to know."""

    def declare(self, metric: Metric) -> None: ...
    def add(self, metric: Metric, labels: Mapping[str, str], value: float) -> None: ...
    def set(self, metric: Metric, value: float) -> None: ...
    def observe(self, metric: Metric, value: float) -> None: ...


@dataclass
class _Open:
    """A request that has not ended. Moments are of time.monotonic()."""

    arrived: float
    num_prompt_tokens: int
    last_token: dict[int, float] = field(default_factory=dict)


class RequestMetrics:
    """Counts what the replies of one model see. Used by one thread, which calls `flush` often."""

    def __init__(
        self,
        board: Board | None = None,
        stats: Callable[[], EngineStats] = EngineStats,
        clock: Callable[[], float] = time.monotonic,
        encoder_cache: Callable[[], EncoderCacheStats] = EncoderCacheStats,
    ) -> None:
        self._board: Board = board or SilentBoard()
        self._stats, self._clock, self._encoder_cache = stats, clock, encoder_cache
        self._open: dict[int, _Open] = {}
        self._counts: Counter[tuple[Metric, tuple[tuple[str, str], ...]]] = Counter()
        self._times: list[tuple[Metric, float]] = []
        self._gaps: list[float] = []
        self._shown: dict[Metric, float] = {}
        self._last_flush = clock()
        for metric in (*_UNLABELLED, *_ENCODER):
            self._board.declare(metric)
        self._show_stats()

    def __repr__(self) -> str:
        return f"<RequestMetrics {len(self._open)} open requests, {self._stats()}>"

    @property
    def is_busy(self) -> bool:
        """Whether what the board shows is not final yet."""
        stats = self._stats()
        return bool(self._open or self._counts or stats.num_running or stats.num_waiting)

    def begin(self, request_id: int, num_prompt_tokens: int, arrived: float) -> None:
        """A request goes to the engine."""
        self._open[request_id] = _Open(arrived, num_prompt_tokens)

    def see(self, request_id: int, event: TokenEvent) -> None:
        """The engine has said something about it."""
        request = self._open.get(request_id)
        if request is None or event.token_id is None:
            return
        now = self._clock()
        self._count(GENERATED)
        if not request.last_token:
            self._begun(request, event, now)
        elif event.index in request.last_token:
            self._gaps.append(now - request.last_token[event.index])
        request.last_token[event.index] = now

    def end(self, request_id: int, finish_reason: str, abort: AbortReason | None = None) -> None:
        """Its reply is over; `abort` says why, if that was before its time."""
        request = self._open.pop(request_id, None)
        if request is None:
            return
        self._times.append((TOTAL, self._clock() - request.arrived))
        self._count(REQUESTS, finish_reason=finish_reason)
        if abort:
            self._count(ABORTS, reason=abort)

    def flush(self, force: bool = False) -> None:
        """Tell the board what has gathered, if it is time again."""
        if not force and self._clock() - self._last_flush < _FLUSH_S:
            return
        self._last_flush = self._clock()
        for (metric, labels), value in self._counts.items():
            self._board.add(metric, dict(labels), value)
        stride = -(-len(self._gaps) // _GAPS_PER_FLUSH)
        for metric, seconds in [*self._times, *((INTER, gap) for gap in self._gaps[:: stride or 1])]:
            self._board.observe(metric, seconds)
        self._counts.clear()
        self._times.clear()
        self._gaps.clear()
        self._show_stats()

    def _begun(self, request: _Open, event: TokenEvent, now: float) -> None:
        self._times += [(QUEUE, event.queued_s), (FIRST, now - request.arrived)]
        self._count(PROMPT, request.num_prompt_tokens)
        self._count(QUERIED, request.num_prompt_tokens)
        self._count(HIT, event.num_cached_tokens)

    def _count(self, metric: Metric, number: int = 1, /, **labels: str) -> None:
        self._counts[metric, tuple(labels.items())] += number

    def _show_stats(self) -> None:
        stats, encoder = self._stats(), self._encoder_cache()
        gauges = {
            RUNNING: stats.num_running,
            WAITING: stats.num_waiting,
            USED_TOKENS: stats.num_tokens_in_use,
            KEPT_TOKENS: stats.num_cached_tokens,
            CACHE_USE: stats.num_tokens_in_use / stats.cache_capacity if stats.cache_capacity else 0.0,
            ENCODER_BYTES: encoder.num_bytes,
        }
        totals = {
            PREEMPTIONS: stats.num_preemptions,
            ENCODER_HITS: encoder.num_hits,
            ENCODER_MISSES: encoder.num_misses,
            ENCODER_EVICTIONS: encoder.num_evictions,
            ENCODER_CALLS: encoder.num_calls,
        }
        for metric, value in gauges.items():
            if self._shown.get(metric) != value:
                self._board.set(metric, value)
        for metric, value in totals.items():
            if more := value - self._shown.get(metric, 0):
                self._board.add(metric, {}, more)
        self._shown = {**gauges, **totals}
