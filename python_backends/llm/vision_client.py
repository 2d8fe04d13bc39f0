"""Image features from the `vision` entry, over gRPC, with a cache keyed by the image's content.

Not by Triton's in-server calls: together with client cancels they bring the whole server down (docs/decisions).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from python_backends.errors import BackendError, ContextOverflow, DependencyDown, InvalidInput, QueueFull, Unsupported

_TIMEOUT_S = 60.0
_CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_WIRE_TEXT = re.compile(r"\[([A-Z_]+)\] (?:(\w+): )?(.*)", re.DOTALL)
_CALLERS_FAULT = {kind.code: kind for kind in (InvalidInput, ContextOverflow, Unsupported, QueueFull)}


@dataclass(frozen=True)
class ImageFeatures:
    """features [n, d] float32, image_grid_thw, and the SHA-256 of what they were made from."""

    features: np.ndarray[Any, Any]
    grid: tuple[int, int, int]
    digest: bytes


class VisionClient:
    """Asks `model` at `endpoint` for what the cache of `cache_bytes` does not hold."""

    def __init__(self, endpoint: str, model: str, cache_bytes: int) -> None:
        self._model = model
        self._channel = grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._cache = FeatureCache(cache_bytes)

    def features(self, images: list[bytes]) -> list[ImageFeatures]:
        """Features of encoded images, in order. Raises InvalidInput for a bad image, DependencyDown if none answers."""
        digests = [hashlib.sha256(image).digest() for image in images]
        known = {digest: self._cache.get(digest) for digest in digests}
        # All calls are in flight before the first answer is awaited, so the encoder can batch them.
        calls = {
            digest: self._stub.ModelInfer.future(_request(self._model, image), timeout=_TIMEOUT_S)
            for digest, image in dict(zip(digests, images, strict=True)).items()
            if known[digest] is None
        }
        for digest, call in calls.items():
            known[digest] = self._cache.put(_await(call, digest))
        return [found for digest in digests if (found := known[digest]) is not None]

    def close(self) -> None:
        self._channel.close()


class FeatureCache:
    """Least recently used features within a budget of bytes; safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<FeatureCache {len(self._entries)} images, {self._bytes}/{self._max_bytes} bytes>"

    def get(self, digest: bytes) -> ImageFeatures | None:
        with self._lock:
            if digest in self._entries:
                self._entries.move_to_end(digest)
            return self._entries.get(digest)

    def put(self, image: ImageFeatures) -> ImageFeatures:
        with self._lock:
            if image.digest not in self._entries:
                self._bytes += image.features.nbytes
            self._entries[image.digest] = image
            # What is larger than the whole budget goes out again at once; its caller has it already.
            while self._bytes > self._max_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._bytes -= evicted.features.nbytes
        return image


def _request(model: str, image: bytes) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="image", datatype="BYTES", shape=[1, 1])
    # BYTES elements carry their length in front, four bytes little-endian (KServe v2).
    request.raw_input_contents.append(len(image).to_bytes(4, "little") + image)
    return request


def _await(call: Any, digest: bytes) -> ImageFeatures:
    try:
        reply = call.result()
    except grpc.RpcError as error:
        raise _translated(error) from error
    raw = {
        output.name: (contents, output.shape)
        for output, contents in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    features = np.frombuffer(raw["features"][0], np.float32).reshape(raw["features"][1][-2:])
    time, height, width = np.frombuffer(raw["image_grid"][0], np.int64).tolist()
    return ImageFeatures(features, (time, height, width), digest)


def _translated(error: Any) -> BackendError:
    """What is the image's fault stays so; everything else is the encoder's."""
    found = _WIRE_TEXT.search(error.details() or "")
    if found and found.group(1) in _CALLERS_FAULT:
        return _CALLERS_FAULT[found.group(1)](found.group(3), found.group(2) or "image")
    return DependencyDown(f"the vision encoder did not answer: {error.code().name}", "image")
