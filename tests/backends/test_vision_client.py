"""The features client against a real gRPC server that answers as the `vision` entry does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

from python_backends.errors import BackendError, DependencyDown, InvalidInput, QueueFull
from python_backends.llm.vision_client import FeatureCache, ImageFeatures, VisionClient

Answer = Callable[[bytes, Any], None]


class Vision(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Two features per image, made of its first byte; an image that names a failure fails so."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.all_here = threading.Barrier(1)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        image = request.raw_input_contents[0][4:]
        self.asked.append(image)
        self.all_here.wait(5)
        if image.startswith(b"["):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble 'vision', {image.decode()}")
        if image == b"crash":
            context.abort(grpc.StatusCode.INTERNAL, "a stack trace")
        reply = pb.ModelInferResponse(model_name=request.model_name)
        reply.outputs.add(name="image_grid", datatype="INT64", shape=[1, 3])
        reply.raw_output_contents.append(np.array([1, 2, 4], np.int64).tobytes())
        reply.outputs.add(name="features", datatype="FP32", shape=[1, 2, 3])
        reply.raw_output_contents.append(np.full((2, 3), image[0], np.float32).tobytes())
        return reply


@pytest.fixture
def vision() -> Vision:
    return Vision()


@pytest.fixture
def client(vision: Vision) -> Iterator[VisionClient]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_GRPCInferenceServiceServicer_to_server(vision, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = VisionClient(f"127.0.0.1:{port}", "vision", cache_bytes=1 << 20)
    yield client
    client.close()
    server.stop(None).wait()


def test_features_come_in_the_order_of_the_images(client: VisionClient) -> None:
    found = client.features([b"b", b"a", b"b"])
    assert [features.features[0, 0] for features in found] == [98, 97, 98]
    assert [(each.features.shape, each.grid) for each in found] == [((2, 3), (1, 2, 4))] * 3
    assert found[0].digest == found[2].digest != found[1].digest


def test_an_image_is_asked_for_once(client: VisionClient, vision: Vision) -> None:
    client.features([b"a", b"a"])
    client.features([b"a", b"b"])
    assert vision.asked == [b"a", b"b"]


def test_all_images_are_under_way_at_once(client: VisionClient, vision: Vision) -> None:
    vision.all_here = threading.Barrier(3)
    assert len(client.features([b"a", b"b", b"c"])) == 3


@pytest.mark.parametrize(
    ("image", "kind", "field", "text"),
    [
        (b"[INVALID_ARGUMENT] image: not a picture", InvalidInput, "image", "not a picture"),
        (b"[RESOURCE_EXHAUSTED] full", QueueFull, "image", "full"),
        (b"[INTERNAL] secret", DependencyDown, "image", "did not answer: INVALID_ARGUMENT"),
        (b"crash", DependencyDown, "image", "did not answer: INTERNAL"),
    ],
)
def test_whose_fault_a_failure_is(
    client: VisionClient, image: bytes, kind: type[BackendError], field: str, text: str
) -> None:
    with pytest.raises(kind) as caught:
        client.features([image])
    assert caught.value.field == field
    assert text in str(caught.value) and "secret" not in str(caught.value) and "trace" not in str(caught.value)


def test_a_failure_is_not_cached(client: VisionClient, vision: Vision) -> None:
    for _ in range(2):
        with pytest.raises(DependencyDown):
            client.features([b"a", b"crash"])
    assert sorted(vision.asked) == [b"a", b"crash", b"crash"]


def test_nobody_at_the_endpoint() -> None:
    client = VisionClient("127.0.0.1:9", "vision", cache_bytes=100)
    with pytest.raises(DependencyDown, match="did not answer: UNAVAILABLE"):
        client.features([b"a"])
    client.close()


def image(name: bytes, num_bytes: int = 40) -> ImageFeatures:
    return ImageFeatures(np.zeros(num_bytes // 4, np.float32), (1, 2, 2), name)


def test_the_least_recently_used_features_are_dropped() -> None:
    cache = FeatureCache(100)
    cache.put(image(b"a"))
    cache.put(image(b"b"))
    assert cache.get(b"a") is not None
    cache.put(image(b"c"))
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]
    assert repr(cache) == "<FeatureCache 2 images, 80/100 bytes>"


@pytest.mark.parametrize("max_bytes", [0, 39])
def test_what_is_larger_than_the_cache_is_not_kept(max_bytes: int) -> None:
    cache = FeatureCache(max_bytes)
    assert cache.put(image(b"a")).digest == b"a"
    assert repr(cache) == f"<FeatureCache 0 images, 0/{max_bytes} bytes>"


def test_the_same_image_counts_once() -> None:
    cache = FeatureCache(100)
    cache.put(image(b"a"))
    cache.put(image(b"a"))
    assert repr(cache) == "<FeatureCache 1 images, 40/100 bytes>"
