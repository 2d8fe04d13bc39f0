"""Image features from the `vision` entry, over gRPC, with a cache keyed by the content and the model's identity.

What a prompt must know of an image (how many features, their grid) is remembered longer than the features: the tokens
that a KV cache covers need none. Not by Triton's in-server calls: together with client cancels they bring the whole
server down (docs/decisions).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

from python_backends.errors import BackendError, ContextOverflow, DependencyDown, InvalidInput, QueueFull, Unsupported
from python_backends.features import Array, FeatureSource, LazyFeatures
from python_backends.llm.feature_cache import FeatureCache, ImageFeatures, ImageRecord
from python_backends.metrics import EncoderCacheStats

_TIMEOUT_S = 60.0
# Triton answers this itself, without the model; who does not is as good as gone.
_IDENTITY_TIMEOUT_S = 5.0
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By itself gRPC keeps to the first of a name's addresses, and one encoder would have all the work.
    ("grpc.lb_policy_name", "round_robin"),
]
_WIRE_TEXT = re.compile(r"\[([A-Z_]+)\] (?:(\w+): )?(.*)", re.DOTALL)
_CALLERS_FAULT = {kind.code: kind for kind in (InvalidInput, ContextOverflow, Unsupported, QueueFull)}


class Wishes(NamedTuple):
    """The area in pixels that an image or a frame may be resized to, and frames a second; 0: as the server has it."""

    min_pixels: int = 0
    max_pixels: int = 0
    fps: float = 0.0


@dataclass(frozen=True)
class Question:
    """An image or a video, what is wished for it, and the key of the answer."""

    digest: bytes
    kind: Literal["image", "video"]
    data: bytes
    wishes: Wishes


class VisionClient:
    """Asks `model` at `endpoint` for what the cache of `cache_bytes` does not hold, once for all who want it now.

    Of a name with several addresses each is asked in its turn.
    """

    def __init__(self, endpoint: str, model: str, cache_bytes: int) -> None:
        self._model = model
        # One for each kind of call: every image brings the same number of questions for the identity, and in turns with
        # those all images of a quiet hour would go to one of two encoders. Their connections are shared.
        self._channels = [grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS) for _ in range(2)]
        self._stub, self._identity_stub = map(service_pb2_grpc.GRPCInferenceServiceStub, self._channels)
        self._cache = FeatureCache(cache_bytes)
        self._flights: dict[bytes, Future[ImageFeatures]] = {}
        self._identity = b""
        self._num_calls = 0
        self._lock = threading.Lock()

    @property
    def stats(self) -> EncoderCacheStats:
        return dataclasses.replace(self._cache.stats, num_calls=self._num_calls)

    def features(
        self, media: list[bytes], wishes: list[Wishes] | None = None, kind: Literal["image", "video"] = "image"
    ) -> list[ImageFeatures]:
        """What is known of encoded images, in order; of one seen before the features may come only when asked for.

        Raises InvalidInput for a bad image, DependencyDown if none answers.
        """
        if not media:
            return []
        identity = self._current_identity()
        pairs = zip(media, wishes or [Wishes()] * len(media), strict=True)
        asked = [Question(_digest(kind, *each, identity), kind, *each) for each in pairs]
        # All calls are in flight before the first answer is awaited, so the encoder can batch them.
        found = {question.digest: question for question in asked}
        known = {digest: self._cache.get(digest) or self._known(question) for digest, question in found.items()}
        answers = {digest: each.result() if isinstance(each, Future) else each for digest, each in known.items()}
        return [answers[question.digest] for question in asked]

    def _known(self, question: Question) -> ImageFeatures | Future[ImageFeatures]:
        record = self._cache.record(question.digest)
        if record is None:
            return self._call(question)
        features = LazyFeatures(FeatureSource(partial(self._later, question, record)), range(record.num_tokens))
        return ImageFeatures(features, record.grid, question.digest, record.prompt, record.seconds_per_grid)

    def _later(self, question: Question, record: ImageRecord) -> Future[Array]:
        """Features for a prompt that was made by the record."""
        future: Future[Array] = Future()
        self._call(question).add_done_callback(partial(_hand_over, record, future))
        return future

    def _call(self, question: Question) -> Future[ImageFeatures]:
        """What the call for this image brings, be it under way or a new one."""
        future: Future[ImageFeatures] = Future()
        with self._lock:
            if question.digest in self._flights:
                return self._flights[question.digest]
            if landed := self._cache.peek(question.digest):
                future.set_result(landed)
                return future
            self._num_calls += 1
            call = self._stub.ModelInfer.future(_request(self._model, question), timeout=_TIMEOUT_S)
            self._flights[question.digest] = future
        # Outside the lock: a call that has ended already lands in this thread.
        call.add_done_callback(partial(self._land, question.digest, future))
        return future

    def _land(self, digest: bytes, future: Future[ImageFeatures], call: Any) -> None:
        """Into the cache first: whoever finds the call gone must find the features."""
        error, found = None, None
        try:
            found = self._cache.put(_read(call, digest))
        except Exception as caught:  # goes to those who wait for this call
            error = caught
        with self._lock:
            del self._flights[digest]
        if found is None:
            future.set_exception(error)
        else:
            future.set_result(found)

    def _current_identity(self) -> bytes:
        """A hash of how `vision` and its steps are configured now: checkpoints, types, bounds.

        Where nobody answers it is the last one known: images seen before need no encoder. Raises DependencyDown if
        there was none yet.
        """
        try:
            configs, names = [], [self._model]
            while names:
                calls = [self._config(name) for name in names]
                found = [call.result().config for call in calls]
                names = [step.model_name for config in found for step in config.ensemble_scheduling.step]
                configs += found
            self._identity = hashlib.sha256(b"".join(map(_packed, configs))).digest()
        except grpc.RpcError as error:
            if not self._identity:
                raise _translated(error) from error
        return self._identity

    def _config(self, name: str) -> Any:
        timeout = _IDENTITY_TIMEOUT_S if self._identity else _TIMEOUT_S
        return self._identity_stub.ModelConfig.future(service_pb2.ModelConfigRequest(name=name), timeout=timeout)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def _digest(kind: str, data: bytes, wishes: Wishes, identity: bytes) -> bytes:
    """The key of the features: the content, what the processor is told about it, and who makes them."""
    content = hashlib.sha256(data).digest()
    return hashlib.sha256(content + identity + repr((kind, *wishes)).encode()).digest()


def _packed(config: Any) -> bytes:
    text: bytes = config.SerializeToString(deterministic=True)
    return len(text).to_bytes(8, "little") + text


def _request(model: str, question: Question) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=question.kind, datatype="BYTES", shape=[1, 1])
    # BYTES elements carry their length in front, four bytes little-endian (KServe v2).
    request.raw_input_contents.append(len(question.data).to_bytes(4, "little") + question.data)
    for name, value in question.wishes._asdict().items():
        if value:
            numbers = np.array(value, np.float32 if name == "fps" else np.int64)
            request.inputs.add(name=name, datatype=np_to_triton_dtype(numbers.dtype), shape=[1, 1])
            request.raw_input_contents.append(numbers.tobytes())
    return request


def _read(call: Any, digest: bytes) -> ImageFeatures:
    try:
        reply = call.result()
    except grpc.RpcError as error:
        raise _translated(error) from error
    except grpc.FutureCancelledError as error:
        raise DependencyDown("the model is being unloaded", "image") from error
    raw = {
        output.name: (contents, output.shape)
        for output, contents in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    features = np.frombuffer(raw["features"][0], np.float32).reshape(raw["features"][1][-2:])
    time, height, width = np.frombuffer(raw["image_grid"][0], np.int64).tolist()
    prompt = raw["image_prompt"][0][4:].decode() if "image_prompt" in raw else ""
    seconds = np.frombuffer(raw["seconds_per_grid"][0], np.float32).item() if "seconds_per_grid" in raw else 0.0
    return ImageFeatures(features, (time, height, width), digest, prompt, seconds)


def _hand_over(record: ImageRecord, future: Future[Array], answer: Future[ImageFeatures]) -> None:
    """What the answer says of the image must be what the prompt was made by."""
    error = answer.exception()
    if error is None and answer.result().record != record:
        error = DependencyDown("the vision encoder changed while it was asked", "image")
    if error is None:
        future.set_result(cast(Array, answer.result().features))
    else:
        future.set_exception(error)


def _translated(error: Any) -> BackendError:
    """What is the image's fault stays so; everything else is the encoder's."""
    found = _WIRE_TEXT.search(error.details() or "")
    if found and found.group(1) in _CALLERS_FAULT:
        return _CALLERS_FAULT[found.group(1)](found.group(3), found.group(2) or "image")
    return DependencyDown(f"the vision encoder did not answer: {error.code().name}", "image")
