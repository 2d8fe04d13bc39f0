"""The `llm` entry inside Triton: read a request, prepare its prompt, hand it to the engine, let the outbox reply."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig

from python_backends.engine import Engine, EngineOptions, create_engine
from python_backends.errors import (
    BackendError,
    DeadlineExceeded,
    DependencyDown,
    InternalFault,
    InvalidInput,
    QueueFull,
)
from python_backends.llm.feature_cache import ImageFeatures
from python_backends.llm.prompt import Prompt, Prompter, place_media, wishes_of
from python_backends.llm.replies import Outbox, Reply, ReplyStyle, Timings
from python_backends.llm.request import ChatRequest, read_request
from python_backends.llm.vision_client import VisionClient, Wishes
from python_backends.metrics import RequestMetrics
from python_backends.options import checkpoint_path, read_options
from python_backends.triton_io import Inputs, MetricBoard, Responder, entry_folder, entry_parameters, load_errors_named
from python_backends.types import FinishReason, GenerationRequest, SamplingParams, TokenEvent

# Preparation waits for the vision encoder more than it computes, so a few threads serve many requests.
_PREPARE_THREADS = 4


@dataclass(frozen=True)
class LlmOptions(EngineOptions):
    """Parameters of the `llm` entry, see docs/contracts.md."""

    engine: str = "torch"
    chat_template: str = ""
    vision_endpoint: str = ""
    vision_model: str = "vision"
    encoder_cache_bytes: int = 256 << 20
    limit_mm_per_prompt: dict[str, Any] | None = None
    stream_interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("encoder_cache_bytes", "stream_interval"):
            if getattr(self, name) < 0:
                raise ValueError(f"parameter {name!r} must not be negative, got {getattr(self, name)}")
        for kind, limit in (self.limit_mm_per_prompt or {}).items():
            if type(limit) is not int or limit < 0:
                raise ValueError(f"parameter 'limit_mm_per_prompt' has the bad limit {limit!r} for {kind!r}")


@dataclass(eq=False)
class Arrival:
    """A request that is not with the engine yet; `stopped` when its client says `stop` already now."""

    inputs: Inputs
    responder: Responder
    timings: Timings = field(default_factory=Timings)
    stopped: bool = False


class LlmService:
    """Triton's Python model for `llm` (decoupled)."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = read_options(LlmOptions, entry_parameters(args), folder)
            self._start(_located(options, folder), MetricBoard(args["model_name"]))

    def _start(self, options: LlmOptions, board: MetricBoard) -> None:
        model = options.model
        shared = {option.name: getattr(options, option.name) for option in fields(EngineOptions)}
        self._options = options
        self._prompter = Prompter(model, options.chat_template, options.trust_remote_code)
        self._defaults = default_sampling(model)
        self._engine: Engine = create_engine(options.engine, EngineOptions(**shared))
        # The launcher chooses the port, so the repository cannot know it.
        here = os.environ.get("TRIMODAL_GRPC_ENDPOINT", "127.0.0.1:8001")
        endpoint = options.vision_endpoint or os.environ.get("TRIMODAL_VISION_ENDPOINT", here)
        self._vision = VisionClient(endpoint, options.vision_model, options.encoder_cache_bytes)
        self._outbox = Outbox(
            self._engine.cancel,
            RequestMetrics(board, lambda: self._engine.stats, encoder_cache=lambda: self._vision.stats),
        )
        self._prepare_pool = ThreadPoolExecutor(_PREPARE_THREADS, thread_name_prefix="prepare")
        self._ids = itertools.count()
        self._arrivals: set[Arrival] = set()
        self._closing = False

    def execute(self, requests: list[Any]) -> None:
        """Take requests and return at once; the replies come from other threads."""
        for request in requests:
            arrival = Arrival(Inputs(request), Responder(request))
            if arrival.inputs.scalar("stop", False):
                self._stop(arrival.inputs.request_id)
                arrival.responder.close()
            elif len(self._arrivals) >= self._options.max_waiting:
                arrival.responder.fail(QueueFull(f"{len(self._arrivals)} requests are being prepared already"))
            else:
                self._arrivals.add(arrival)
                self._prepare_pool.submit(self._serve, arrival)

    def finalize(self) -> None:
        # In the order of a request's way, so that each part can still hand over to the next.
        self._closing = True
        self._prepare_pool.shutdown(wait=True)
        self._engine.close()
        self._outbox.close()
        self._vision.close()

    def _stop(self, name: str) -> None:
        for arrival in tuple(self._arrivals):
            arrival.stopped |= arrival.inputs.request_id == name
        self._outbox.stop(name)

    def _serve(self, arrival: Arrival) -> None:
        try:
            if arrival.responder.is_cancelled():
                arrival.responder.close()
            else:
                self._submit(arrival)
        except Exception as error:  # becomes the error reply to this request
            arrival.responder.fail(error)
        self._arrivals.discard(arrival)

    def _submit(self, arrival: Arrival) -> None:
        if self._closing:
            raise DependencyDown("the model is being unloaded")
        request = read_request(arrival.inputs, self._defaults)
        self._check_adapter(request.lora_name)
        deadline = _deadline(arrival, request)
        prompt = self._prompt(request)
        sampling = self._with_bad_words(request)
        generation = GenerationRequest(
            next(self._ids), prompt.ids, sampling, prompt.images, deadline, request.cache_salt, request.lora_name
        )
        arrival.timings.prepared = time.monotonic()
        reply = self._reply(request, generation, arrival)
        # The reply must be known before the engine can say its first word.
        self._outbox.register(reply)
        self._hand_over(generation, reply, arrival.stopped)

    def _hand_over(self, generation: GenerationRequest, reply: Reply, stopped: bool) -> None:
        """From here on the outbox owns the responder, so whatever happens becomes an event."""
        emit = partial(self._outbox.put, generation.id)
        if stopped:
            reply.stopped = True
            for index in range(generation.sampling.n):
                emit(TokenEvent(finish_reason=FinishReason.ABORT, index=index))
            return
        try:
            self._engine.submit(generation, emit)
        except BackendError as error:
            emit(TokenEvent(error=error))
        except Exception as error:  # becomes the error reply to this request
            emit(TokenEvent(error=InternalFault(f"{type(error).__name__}: {error}")))
        # A cancel of the outbox may have come to the engine before the request, which then knew of no such id.
        if reply.stopped:
            self._engine.cancel(generation.id)

    def _reply(self, request: ChatRequest, generation: GenerationRequest, arrival: Arrival) -> Reply:
        style = ReplyStyle(
            stream=request.stream,
            echo=request.text_input if request.echo else "",
            interval=self._options.stream_interval,
            compact=request.compact,
        )
        name, tokenizer = arrival.inputs.request_id, self._prompter.backend
        return Reply(generation, name, arrival.responder, tokenizer, style, arrival.timings)

    def _prompt(self, request: ChatRequest) -> Prompt:
        num_images = len(request.images) + (request.image_embeds is not None)
        self._check_limit("image", num_images)
        self._check_limit("video", len(request.videos))
        messages = place_media(request.messages or [], num_images, len(request.videos))
        if request.messages is not None:
            # Before anything is encoded, because a bad part costs nothing yet.
            wishes = {kind: wishes_of(messages, kind) for kind in ("image", "video")}
            ids = self._prompter.from_messages(messages, request.tools, request.chat_template_kwargs)
        else:
            wishes = {"image": [], "video": []}
            ids = self._prompter.from_text(request.text_input) if request.input_ids is None else request.input_ids
        images = self._image_features(request, wishes["image"])
        videos = self._vision.features(request.videos, _fitting(wishes["video"], request.videos), "video")
        return self._prompter.expand(ids, images, videos)

    def _image_features(self, request: ChatRequest, wishes: list[Wishes]) -> list[ImageFeatures]:
        if request.image_embeds is None:
            return self._vision.features(request.images, _fitting(wishes, request.images))
        if request.images or request.image_grid is None:
            raise InvalidInput("image_embeds come with image_grid and without image", "image_embeds")
        features = np.ascontiguousarray(request.image_embeds, np.float32)
        if not np.isfinite(features).all():
            raise InvalidInput("must be finite numbers", "image_embeds")
        frames, height, width = request.image_grid.tolist()
        digest = sha256(features.tobytes()).digest()
        return [ImageFeatures(features, (frames, height, width), digest, request.image_prompt)]

    def _check_limit(self, kind: str, number: int) -> None:
        limit = (self._options.limit_mm_per_prompt or {}).get(kind)
        if limit is not None and number > limit:
            raise InvalidInput(f"limit_mm_per_prompt allows {limit} {kind}s, got {number}", kind)

    def _check_adapter(self, name: str) -> None:
        adapters = self._options.lora_adapters or {}
        if name and name not in adapters:
            raise InvalidInput(f"{name!r} is not an adapter; known are {', '.join(adapters) or 'none'}", "lora_name")

    def _with_bad_words(self, request: ChatRequest) -> SamplingParams:
        if not request.bad_words:
            return request.sampling
        # Only here, because it takes the tokenizer that request.py refuses to know.
        ids = tuple(ids for word in request.bad_words for ids in self._prompter.word_ids(word))
        return SamplingParams(**{**vars(request.sampling), "bad_words_ids": ids})


def _located(options: LlmOptions, folder: Path) -> LlmOptions:
    """Paths that begin at the entry's folder become absolute."""
    adapters = {name: checkpoint_path(folder, path) for name, path in (options.lora_adapters or {}).items()}
    return replace(options, model=checkpoint_path(folder, options.model), lora_adapters=adapters)


def _fitting(wishes: list[Wishes], media: list[bytes]) -> list[Wishes] | None:
    # More or fewer parts than images are an error of the prompt, which `expand` tells.
    return wishes if len(wishes) == len(media) else None


def _deadline(arrival: Arrival, request: ChatRequest) -> float | None:
    """The earlier of what Triton and what the request itself says, on the monotonic clock. Raises if it has passed."""
    limits = [limit for limit in (arrival.inputs.timeout_s, request.timeout_s) if limit is not None]
    if not limits:
        return None
    deadline = arrival.timings.arrived + min(limits)
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the deadline of the request passed before its turn came")
    return deadline


def default_sampling(model: str) -> SamplingParams:
    """What a request that says nothing gets: the checkpoint's generation_config, greedy if `do_sample` is false."""
    try:
        config = GenerationConfig.from_pretrained(model)
    except OSError:  # the file is optional
        return SamplingParams()
    temperature = 1.0 if config.temperature is None else config.temperature
    return SamplingParams(
        temperature=0.0 if config.do_sample is False else temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=0 if config.top_k is None else config.top_k,
        repetition_penalty=1.0 if config.repetition_penalty is None else config.repetition_penalty,
    )
