"""The engine's loop: take what arrived, schedule a step, run it, draw tokens, tell the requests.

One thread owns scheduler, cache and sampler. `submit` and `cancel` only put messages into its inbox, so no lock guards
the state. A request that fails ends alone; the loop goes on.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass

import torch

from python_backends.admission import check_request
from python_backends.engine import EngineOptions, EngineStats
from python_backends.errors import (
    BackendError,
    DeadlineExceeded,
    DependencyDown,
    InternalFault,
    InvalidInput,
)
from python_backends.features import LazyFeatures
from python_backends.openmp import end_team
from python_backends.torch_engine.cache import CacheShape, KVCache
from python_backends.torch_engine.guided import Guidance, Masks
from python_backends.torch_engine.model import DecoderModel
from python_backends.torch_engine.progress import next_event
from python_backends.torch_engine.runner import Runner
from python_backends.torch_engine.sampler import Draw, Sampler
from python_backends.torch_engine.scheduler import Scheduler, Step
from python_backends.torch_engine.self_check import check_model
from python_backends.torch_engine.sequence import Sequence, content_keys, mutual_ranges
from python_backends.torch_engine.slots import SlotPool
from python_backends.turns import turns_on
from python_backends.types import Emit, FinishReason, GenerationRequest, ImageSpan, TokenEvent

# How late an engine without other work may notice that a deadline has passed.
_DEADLINES_S = 0.1


@dataclass(frozen=True)
class Cancel:
    """A message to the loop: end this request, or one of its sequences."""

    request_id: int
    index: int | None = None


@dataclass(frozen=True)
class Fetched:
    """A message to the loop: image features that this sequence waited for are here, or will never be."""

    sequence: Sequence


class TorchEngine:
    """Continuous batching over one Hugging Face decoder, on CPU or on one GPU."""

    def __init__(self, options: EngineOptions) -> None:
        self._model = DecoderModel(options)
        self.max_model_len = _context_length(options.max_model_len, self._model.max_model_len)
        shape = self._model.cache_shape
        capacity = _capacity(options, shape, self.max_model_len)
        num_slots = _num_slots(options, shape, capacity, self.max_model_len)
        pool = SlotPool(num_slots, capacity, options.enable_prefix_caching)
        self._max_tokens_in_cache = capacity
        self._inbox: queue.SimpleQueue[Sequence | Cancel | Fetched | None] = queue.SimpleQueue()
        self.scheduler = Scheduler(
            pool,
            options.max_num_batched_tokens,
            options.max_waiting,
            options.priority_ageing_s,
            lambda sequence: self._inbox.put(Fetched(sequence)),
        )
        self._runner = Runner(self._model, KVCache(shape, num_slots, self.max_model_len))
        check_model(self._model, self._runner)
        eos = self._model.eos_token_ids
        self._sampler = Sampler(eos)
        self._guidance = Guidance(options.model, options.trust_remote_code, self._model.vocab_size, eos)
        self._max_num_seqs = options.max_num_seqs
        self._turns = turns_on(self._model.device)
        end_team()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<TorchEngine {self._model!r}, {self.scheduler!r}>"

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Queue a request; see `Engine.submit`."""
        if not self._thread.is_alive():
            raise DependencyDown("the engine is closed")
        for image in request.images:
            _check_features(image, self._model.feature_size)
        limit, guide = min(self.max_model_len, self._max_tokens_in_cache), request.sampling.guide
        max_tokens = check_request(request, limit, self._model.vocab_size, self._max_num_seqs)
        constraint = self._guidance.compile(guide) if guide else None
        mutual = mutual_ranges(request.images) if self._model.images_are_mutual else ()
        keys = content_keys(request, mutual)
        self._inbox.put(Sequence(request, emit, keys, max_tokens, constraint=constraint, mutual=mutual))

    def cancel(self, request_id: int, index: int | None = None) -> None:
        self._inbox.put(Cancel(request_id, index))

    @property
    def stats(self) -> EngineStats:
        pool = self.scheduler.pool
        return EngineStats(
            self.scheduler.num_running,
            self.scheduler.num_waiting,
            pool.num_tokens_in_use,
            pool.num_tokens,
            pool.capacity,
            self.scheduler.num_preemptions,
        )

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()
        self._end_all()
        self._guidance.close()

    def _loop(self) -> None:
        try:
            while self._take_messages():
                started = time.monotonic()
                for sequence in self.scheduler.expired(started):
                    self._fail(sequence, DeadlineExceeded("the deadline of the request has passed"), remember=True)
                step = self.scheduler.schedule(started)
                if step.chunks:
                    with self._turns.turn():
                        started = time.monotonic()
                        self._run(step)
                    self._observe(step, time.monotonic() - started)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        """Nobody is left waiting for an engine that has stopped, for whatever reason."""
        for sequence in self.scheduler.sequences:
            self._abort(sequence)
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Sequence):
                self._abort(message)

    def _take_messages(self) -> bool:
        """Handle the inbox, waiting for it when there is nothing else to do; False when the engine is to close."""
        while True:
            try:
                # An idle engine sleeps here; a busy one only looks, and one that awaits features looks at deadlines.
                timeout = _DEADLINES_S if self.scheduler.is_fetching else None
                message = self._inbox.get(block=not self.scheduler.has_work, timeout=timeout)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, Sequence):
                self._admit(message)
            elif isinstance(message, Fetched):
                self._resume(message.sequence)
            else:
                self._cancel(message)

    def _admit(self, sequence: Sequence) -> None:
        try:
            self._runner.admit(sequence)
            self.scheduler.add(sequence)
        except Exception as error:  # ends this request, never the loop
            self._fail(sequence, error)

    def _resume(self, sequence: Sequence) -> None:
        try:
            for image in sequence.request.images:
                _check_features(image, self._model.feature_size)
            self.scheduler.resume(sequence)
        except Exception as error:  # ends this request, never the loop
            self._fail(sequence, error)

    def _cancel(self, cancel: Cancel) -> None:
        for sequence in self.scheduler.sequences:
            if sequence.request.id == cancel.request_id and cancel.index in (None, sequence.index):
                self._abort(sequence)

    def _observe(self, step: Step, seconds: float) -> None:
        # A GPU is waited for only where tokens are drawn.
        is_done = self._model.device.type == "cpu" or any(chunk.sequence.num_output_tokens for chunk in step.chunks)
        self.scheduler.observe(step, seconds, is_done)

    def _run(self, step: Step) -> None:
        sampling = [chunk.sequence for chunk in step.chunks if chunk.samples]
        masks = self._guidance.begin(sampling)
        try:
            logits = self._runner.run(step)
            for chunk in step.chunks:
                self.scheduler.commit(chunk)
            draws = self._draw(sampling, logits, masks)
        except Exception as error:  # the step's requests end with the error, the others go on
            for chunk in step.chunks:
                self._fail(chunk.sequence, error)
        else:
            for sequence, draw in draws:
                self._append(sequence, draw)

    def _draw(
        self, sampling: list[Sequence], logits: torch.Tensor, masks: Masks
    ) -> list[tuple[Sequence, Draw | BackendError]]:
        """The next token of every sequence in `sampling` and of their forks, from logits [sampling, vocabulary]."""
        # The grammars are the mask thread's until then, and a fork copies its parent's.
        masks.wait()
        # A prompt that is computed by now has the first token of all its request's sequences in one row.
        forks = [(row, each.fork(index)) for row, each in enumerate(sampling) for index in each.unforked]
        for _, fork in forks:
            self._runner.admit(fork)
            self.scheduler.add_fork(fork)
        sequences = [*sampling, *(fork for _, fork in forks)]
        rows = [*range(len(sampling)), *(row for row, _ in forks)]
        draws = self._sampler.draw(logits[rows] if forks else logits, sequences, masks)
        return list(zip(sequences, draws, strict=True))

    def _append(self, sequence: Sequence, draw: Draw | BackendError) -> None:
        if sequence.is_over:  # with a sibling that failed
            return
        try:
            event = next_event(sequence, draw, self._model.eos_token_ids)
        except Exception as error:  # ends this request; the step's others go on
            self._fail(sequence, error)
        else:
            self._end(sequence, event) if event.finish_reason else sequence.emit(event)

    def _abort(self, sequence: Sequence) -> None:
        for index in (*sequence.unforked, sequence.index):
            event = TokenEvent(finish_reason=FinishReason.ABORT, num_cached_tokens=sequence.num_cached, index=index)
            self._end(sequence, event) if index == sequence.index else sequence.emit(event)

    def _fail(self, sequence: Sequence, error: Exception, remember: bool = False) -> None:
        """End its request with the error; what a failed step left in the cache must not be found by others."""
        if sequence.is_over:
            return
        known = error if isinstance(error, BackendError) else InternalFault(f"{type(error).__name__}: {error}")
        for sibling in self.scheduler.sequences:
            if sibling.request is sequence.request and sibling is not sequence:
                self._drop(sibling, remember)
        self._drop(sequence, remember)
        sequence.emit(TokenEvent(error=known, index=sequence.index))

    def _end(self, sequence: Sequence, event: TokenEvent) -> None:
        self._drop(sequence)
        sequence.emit(event)

    def _drop(self, sequence: Sequence, remember: bool = True) -> None:
        sequence.is_over = True
        self.scheduler.finish(sequence, remember)
        self._runner.forget(sequence)
        self._sampler.forget(sequence)


def _check_features(image: ImageSpan, feature_size: int) -> None:
    """Of what is here, or has failed to come."""
    if isinstance(image.features, LazyFeatures) and image.features.source.error:
        raise image.features.source.error
    if image.array is not None and (image.array.ndim != 2 or image.array.shape[1] != feature_size):
        raise InvalidInput(f"must have the shape [n, {feature_size}], got {list(image.array.shape)}", "image_embeds")


def _context_length(wanted: int, possible: int) -> int:
    if wanted > possible:
        raise ValueError(f"parameter 'max_model_len' is {wanted}; the checkpoint's context holds {possible}")
    return wanted or possible


def _capacity(options: EngineOptions, shape: CacheShape, max_model_len: int) -> int:
    """How many tokens the cache may hold in all."""
    budget = options.kv_cache_bytes or _default_cache_bytes(options, shape.device)
    capacity = budget // shape.bytes_per_token
    if capacity < 2:
        raise ValueError(f"parameter 'kv_cache_bytes' is {budget}; one token needs {shape.bytes_per_token} bytes")
    return min(capacity, options.max_num_seqs * max_model_len)


def _default_cache_bytes(options: EngineOptions, device: torch.device) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * options.gpu_memory_utilization) - (total - free))
    # A quarter of the machine leaves room for weights, the other entries and the page cache.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _num_slots(options: EngineOptions, shape: CacheShape, capacity: int, max_model_len: int) -> int:
    """On CPU slots cost nothing until touched; on a GPU every slot is real memory."""
    if shape.device.type == "cpu":
        return options.max_num_seqs
    return max(1, min(options.max_num_seqs, capacity // max_model_len))
