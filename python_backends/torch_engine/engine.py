"""The engine's loop: take what arrived, schedule a step, run it, draw tokens, tell the requests.

One thread owns scheduler, cache and sampler. `submit` and `cancel` only put messages into its inbox, so no lock guards
the state. A request that fails ends alone; the loop goes on.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterable

import torch

from python_backends.engine import EngineOptions
from python_backends.errors import BackendError, ContextOverflow, DependencyDown, InternalFault, InvalidInput
from python_backends.torch_engine.cache import CacheShape, KVCache
from python_backends.torch_engine.model import DecoderModel
from python_backends.torch_engine.runner import Runner
from python_backends.torch_engine.sampler import Sampler, token_logprob
from python_backends.torch_engine.scheduler import Scheduler, Step
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import SlotPool
from python_backends.types import Emit, FinishReason, GenerationRequest, ImageSpan, TokenEvent


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
        self.scheduler = Scheduler(pool, options.max_num_batched_tokens, options.max_waiting)
        self._runner = Runner(self._model, KVCache(shape, num_slots, self.max_model_len))
        self._runner.warm_up()
        self._sampler = Sampler(self._model.eos_token_ids, self._model.device)
        self._inbox: queue.SimpleQueue[Sequence | int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<TorchEngine {self._model!r}, {self.scheduler!r}>"

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Queue a request; see `Engine.submit`."""
        if not self._thread.is_alive():
            raise DependencyDown("the engine is closed")
        self._inbox.put(Sequence(request, emit, _content_keys(request), self._check_fits(request)))

    def cancel(self, request_id: int) -> None:
        self._inbox.put(request_id)

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()
        self._end_all()

    def _check_fits(self, request: GenerationRequest) -> int:
        """How many tokens it may generate: what it asks for, as far as the context has room. Raises if none fits."""
        num_prompt, wanted = len(request.prompt_ids), request.sampling.max_tokens
        if num_prompt == 0:
            raise InvalidInput("the prompt has no tokens", "text_input")
        _check_token_ids(request.prompt_ids, self._model.vocab_size, "input_ids")
        for name in ("logit_bias", "stop_token_ids"):
            _check_token_ids(getattr(request.sampling, name), self._model.vocab_size, name)
        for image in request.images:
            _check_width(image, self._model.hidden_size)
        limit = min(self.max_model_len, self._max_tokens_in_cache)
        if num_prompt >= limit:
            raise ContextOverflow(f"the prompt has {num_prompt} tokens; the context holds {limit}", "messages")
        if wanted is not None and wanted > limit:
            raise ContextOverflow(f"{wanted} tokens are more than the context holds, which is {limit}", "max_tokens")
        return min(wanted or limit, limit - num_prompt)

    def _loop(self) -> None:
        try:
            while self._take_messages():
                step = self.scheduler.schedule()
                if step.chunks:
                    self._run(step)
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
                # An idle engine sleeps here; a busy one only looks.
                message = self._inbox.get(block=not self.scheduler.has_work)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, Sequence):
                self._admit(message)
            else:
                self._cancel(message)

    def _admit(self, sequence: Sequence) -> None:
        try:
            self._runner.admit(sequence)
            self.scheduler.add(sequence)
        except Exception as error:  # ends this request, never the loop
            self._fail(sequence, error)

    def _cancel(self, request_id: int) -> None:
        for sequence in self.scheduler.sequences:
            if sequence.id == request_id:
                self._abort(sequence)

    def _run(self, step: Step) -> None:
        try:
            logits = self._runner.run(step)
        except Exception as error:  # the step's requests end with the error, the others go on
            for chunk in step.chunks:
                self._fail(chunk.sequence, error)
        else:
            self._advance(step, logits)

    def _advance(self, step: Step, logits: torch.Tensor) -> None:
        """logits [chunks that sample, vocabulary]: the step is in the cache, and those chunks get a new token."""
        sampling = [chunk.sequence for chunk in step.chunks if chunk.samples]
        for chunk in step.chunks:
            self.scheduler.commit(chunk)
        # One argmax for the whole batch: most requests need no more, and each call costs as much as all.
        likeliest = logits.argmax(-1).tolist()
        for sequence, row, token_id in zip(sampling, logits, likeliest, strict=True):
            try:
                self._append(sequence, self._sampler.draw(row, token_id, sequence), row)
            except Exception as error:  # ends this request; the step's others go on
                self._fail(sequence, error)

    def _append(self, sequence: Sequence, token_id: int, row: torch.Tensor) -> None:
        sampling = sequence.request.sampling
        ends = self._stop_ids(sequence)
        logprob = token_logprob(row, token_id, sampling.top_logprobs) if sampling.logprobs else None
        sequence.tokens.append(token_id)
        stopped = token_id in ends
        reason = FinishReason.STOP if stopped else None
        # A stop token that comes as the last allowed one is still a stop.
        if not stopped and sequence.num_output_tokens >= sequence.max_tokens:
            reason = FinishReason.LENGTH
        event = TokenEvent(token_id, logprob, reason, token_id if stopped else None, sequence.num_cached)
        self._end(sequence, event) if reason else sequence.emit(event)

    def _stop_ids(self, sequence: Sequence) -> frozenset[int]:
        sampling = sequence.request.sampling
        return sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | self._model.eos_token_ids

    def _abort(self, sequence: Sequence) -> None:
        self._end(sequence, TokenEvent(finish_reason=FinishReason.ABORT, num_cached_tokens=sequence.num_cached))

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """End it with the error; what a failed step left in the cache must not be found by others."""
        known = error if isinstance(error, BackendError) else InternalFault(f"{type(error).__name__}: {error}")
        self._end(sequence, TokenEvent(error=known), remember=False)

    def _end(self, sequence: Sequence, event: TokenEvent, remember: bool = True) -> None:
        self.scheduler.finish(sequence, remember)
        self._runner.forget(sequence)
        self._sampler.forget(sequence)
        sequence.emit(event)


def _check_token_ids(token_ids: Iterable[int], vocab_size: int, field: str) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidInput(f"token ids must be in 0..{vocab_size - 1}, got {token_id}", field)


def _check_width(image: ImageSpan, hidden_size: int) -> None:
    if image.features.ndim != 2 or image.features.shape[1] != hidden_size:
        raise InvalidInput(f"must have the shape [n, {hidden_size}], got {list(image.features.shape)}", "image_embeds")


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


def _content_keys(request: GenerationRequest) -> list[int]:
    """Token ids, and in place of an image's placeholders hashes of its content, so that only equal images match."""
    # The placeholders of two images are the same token; by ids alone one would get the other's answer.
    keys = list(request.prompt_ids)
    for image in request.images:
        keys[image.start : image.end] = _image_keys(image)
    return keys


def _image_keys(image: ImageSpan) -> list[int]:
    """Negative numbers from SHA-256(digest, grid, offset): never a token id. The grid decides all later positions."""
    content = hashlib.sha256(image.digest + repr(image.grid).encode()).digest()
    offsets = (offset.to_bytes(4, "little") for offset in range(len(image.features)))
    return [-int.from_bytes(hashlib.sha256(content + offset).digest(), "big") for offset in offsets]
