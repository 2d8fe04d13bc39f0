"""The engine's loop: an asyncio loop in a thread of its own, which hands sequences to TensorRT-LLM in our order.

TensorRT-LLM batches, and never holds more than `max_num_seqs` sequences of ours; who is next, who is refused and whose
time is up is decided here, in the same words as in the other engines. `submit` and `cancel` only post to the loop,
which alone touches the state; the one lock keeps them from posting to a loop that has been told to stop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import insort
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from python_backends.admission import check_request, turn
from python_backends.engine import EngineOptions, EngineStats
from python_backends.errors import (
    BackendError,
    DeadlineExceeded,
    DependencyDown,
    InternalFault,
    QueueFull,
    Unsupported,
)
from python_backends.features import LazyFeatures
from python_backends.tensorrt_llm_engine import arguments
from python_backends.tensorrt_llm_engine.adapters import lora_arguments
from python_backends.tensorrt_llm_engine.checkpoint import read_checkpoint
from python_backends.tensorrt_llm_engine.library import Library, check_call, load_library
from python_backends.tensorrt_llm_engine.sequence import Sequence
from python_backends.types import Emit, GenerationRequest, ImageSpan, SamplingParams, TokenEvent


class TensorRTLLMEngine:
    """One model on one or more GPUs (`tensor_parallel_size`); `library` is the installed one unless a test has its own.

    Raises ImportError or ValueError for a library, a version or an option that it cannot work with.
    """

    def __init__(self, options: EngineOptions, library: Library | None = None) -> None:
        self._library = library or load_library()
        self._options = options
        self._checkpoint = read_checkpoint(options)
        self.max_model_len = self._checkpoint.max_model_len
        lora = self._lora()
        self._adapters = {"": None, **self._lora_requests()}
        self._check_library()
        self._llm = self._library.llm(
            **arguments.llm_arguments(options, self.max_model_len),
            **lora,
            kv_cache_config=self._library.kv_cache_config(**arguments.kv_cache_arguments(options)),
        )
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed, self._closing = False, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        running = f"{len(self._waiting)} waiting, {len(self._running)} running"
        return f"<TensorRTLLMEngine {self._library.version}, {self._options.model}, {running}>"

    @property
    def stats(self) -> EngineStats:
        # The library's own cache shows its size to nobody who does not ask it over its queue of statistics.
        running = tuple(self._running)
        used = sum(sequence.num_tokens for sequence in running)
        return EngineStats(len(running), len(self._waiting), used, used)

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Queue a request; see `Engine.submit`. Raises Unsupported for what the library's version cannot do."""
        limit = self.max_model_len
        max_tokens = check_request(request, limit, self._checkpoint.vocab_size, self._options.max_num_seqs)
        if request.images and self._checkpoint.has_grid_positions:
            raise Unsupported("TensorRT-LLM takes no features of models that count images in two dimensions", "image")
        sequences = self._sequences(request, emit, max_tokens)
        # Whatever is wrong with the request is said now, and to its sender.
        self._call(sequences[0])
        self._post(self._take, sequences)

    def cancel(self, request_id: int, index: int | None = None) -> None:
        with suppress(DependencyDown):
            self._post(self._cancel, request_id, index)

    def close(self) -> None:
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._llm.shutdown()

    def _post(self, call: Callable[..., None], *values: Any) -> None:
        with self._closing:
            if self._is_closed:
                raise DependencyDown("the engine is closed")
            self._loop.call_soon_threadsafe(call, *values)

    def _sequences(self, request: GenerationRequest, emit: Emit, max_tokens: int) -> list[Sequence]:
        arrived = time.monotonic()
        first = turn(request.sampling.priority, arrived, self._options.priority_ageing_s)
        sampling = request.sampling
        eos = () if sampling.ignore_eos and not sampling.guide else self._checkpoint.eos_token_ids
        ends = frozenset({*sampling.stop_token_ids, *eos})
        return [
            Sequence(request, emit, index, max_tokens, (*first, request.id, index), arrived, ends)
            for index in range(sampling.n)
        ]

    def _take(self, sequences: list[Sequence]) -> None:
        free = self._options.max_num_seqs - len(self._running)
        if len(self._waiting) >= self._options.max_waiting + free:
            limit = self._options.max_waiting
            error = QueueFull(f"{len(self._waiting)} requests wait already; the limit is {limit}")
            self._fail(sequences[0], error)
        else:
            for sequence in sequences:
                insort(self._waiting, sequence, key=lambda each: each.order)
            deadline = sequences[0].request.deadline
            if deadline is not None:
                self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, sequences)
            self._loop.call_soon(self._admit)

    def _expire(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if not sequence.is_over:
                self._fail(sequence, DeadlineExceeded("the deadline of the request has passed"))

    def _cancel(self, request_id: int, index: int | None) -> None:
        for sequence in [*self._waiting, *self._running]:
            if sequence.request.id == request_id and index in (None, sequence.index):
                self._end(sequence, sequence.aborted())

    def _admit(self) -> None:
        now = time.monotonic()
        while self._waiting and len(self._running) < self._options.max_num_seqs:
            sequence = self._waiting.pop(0)
            sequence.started = now
            self._running.append(sequence)
            task = self._loop.create_task(self._generate(sequence))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _generate(self, sequence: Sequence) -> None:
        try:
            await _features(sequence.request.images)
            if sequence.is_over:
                return
            sequence.handle = self._llm.generate_async(**self._call(sequence))
            async for output in sequence.handle:
                self._hear(sequence, output)
            if not sequence.is_over:
                raise InternalFault("TensorRT-LLM ended the sequence without a reason")
        except Exception as error:  # ends this request, never the loop
            self._fail(sequence, error)

    def _hear(self, sequence: Sequence, output: Any) -> None:
        """Pass on what is new. What was aborted is heard to its end, and goes nowhere."""
        if sequence.is_over:
            return
        for event in sequence.events(output):
            if event.finish_reason:
                self._end(sequence, event)
            else:
                sequence.emit(event)

    def _call(self, sequence: Sequence) -> dict[str, Any]:
        """The arguments of `LLM.generate_async`."""
        request, library = sequence.request, self._library
        return {
            "inputs": arguments.prompt_inputs(request, library.version),
            "sampling_params": library.sampling_params(**self._sampling(sequence)),
            "streaming": True,
            "cache_salt": arguments.cache_salt(request.cache_salt, request.images),
            # The library's own block keys hold the adapter's number, so prefixes need no salt for it.
            "lora_request": self._adapters[request.lora_name],
        }

    def _lora(self) -> dict[str, Any]:
        """The arguments of `LLM(...)` for adapters."""
        if not self._options.lora_adapters:
            return {}
        given = lora_arguments(self._options.lora_adapters)
        check_call(self._library, self._library.lora_config, given)
        # With CUDA graphs an adapter's output was not the same, by NVIDIA/TensorRT-LLM#5480.
        return {"lora_config": self._library.lora_config(**given), "cuda_graph_config": None}

    def _lora_requests(self) -> dict[str, Any]:
        numbered = enumerate((self._options.lora_adapters or {}).items(), 1)
        return {
            name: self._library.lora_request(lora_name=name, lora_int_id=number, lora_path=folder)
            for number, (name, folder) in numbered
        }

    def _sampling(self, sequence: Sequence) -> dict[str, Any]:
        sampling, size = sequence.request.sampling, len(sequence.request.prompt_ids)
        eos, version = self._checkpoint.eos_token_ids, self._library.version
        given = arguments.sampling_arguments(sampling, sequence.index, size, sequence.max_tokens, eos, version)
        if sampling.guide:
            guide = arguments.guide_arguments(sampling.guide, self._checkpoint.specials)
            given["guided_decoding"] = self._library.guided_decoding_params(**guide)
        if bias := arguments.embedding_bias(sampling):
            given["embedding_bias"] = self._library.tensor(_row(bias, self._checkpoint.vocab_size))
        return given

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """End the whole request with the error."""
        if sequence.is_over:
            return
        known = error if isinstance(error, BackendError) else InternalFault(f"{type(error).__name__}: {error}")
        for sibling in [*self._waiting, *self._running]:
            if sibling.request is sequence.request and sibling is not sequence:
                self._drop(sibling)
        self._drop(sequence)
        sequence.emit(TokenEvent(error=known, index=sequence.index))
        self._loop.call_soon(self._admit)

    def _end(self, sequence: Sequence, event: TokenEvent) -> None:
        self._drop(sequence)
        sequence.emit(event)
        self._loop.call_soon(self._admit)

    def _drop(self, sequence: Sequence) -> None:
        sequence.is_over = True
        for line in (self._waiting, self._running):
            if sequence in line:
                line.remove(sequence)
        if sequence.handle is not None and not sequence.handle.finished:
            sequence.handle.abort()

    async def _stop(self) -> None:
        for sequence in [*self._waiting, *self._running]:
            self._end(sequence, sequence.aborted())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check_library(self) -> None:
        """Raises ValueError, naming version and argument, if the installed library lacks what every request needs."""
        request = GenerationRequest(0, (0,), SamplingParams())
        [plain] = self._sequences(request, lambda event: None, 1)
        check_call(self._library, self._library.kv_cache_config, arguments.kv_cache_arguments(self._options))
        check_call(self._library, self._library.sampling_params, self._sampling(plain))
        check_call(self._library, self._library.llm.generate_async, self._call(plain))


async def _features(images: tuple[ImageSpan, ...]) -> None:
    """Wait until the features of all images are here. Raises the error of one that will never come."""
    loop = asyncio.get_running_loop()
    for image in images:
        if not isinstance(image.features, LazyFeatures):
            continue
        source, came = image.features.source, loop.create_future()
        source.ask()
        source.then(partial(_tell, loop, came))
        await came
        if source.error:
            raise source.error


def _tell(loop: asyncio.AbstractEventLoop, came: asyncio.Future[None]) -> None:
    """From any thread. Whoever waited may be gone, and the loop with it."""

    def tell() -> None:
        if not came.done():
            came.set_result(None)

    with suppress(RuntimeError):
        loop.call_soon_threadsafe(tell)


def _row(values: dict[int, float], size: int) -> list[float]:
    row = [0.0] * size
    for token_id, value in values.items():
        row[token_id] = value
    return row
