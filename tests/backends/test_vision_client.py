"""The features client against a real gRPC server that answers as the `vision` entry does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from python_backends.errors import BackendError, DependencyDown, InvalidInput, QueueFull
from python_backends.features import FeatureSource, LazyFeatures
from python_backends.llm.feature_cache import FeatureCache, ImageFeatures
from python_backends.llm.vision_client import VisionClient, Wishes
from python_backends.metrics import EncoderCacheStats
from tests.backends.vision_server import Vision, listening, served


@pytest.fixture
def vision() -> Vision:
    return Vision()


@pytest.fixture
def client(vision: Vision) -> Iterator[VisionClient]:
    with served(vision) as client:
        yield client


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


def test_encoders_behind_one_name_share_the_images() -> None:
    one, two = Vision(), Vision()
    with listening(one) as first:
        with listening(two) as second:
            # As a name with two addresses is resolved.
            client = VisionClient(f"ipv4:{first},{second}", "vision", 1 << 20)
            numbers = iter(range(10_000))

            def images(count: int) -> list[bytes]:
                return [b"image %d" % next(numbers) for _ in range(count)]

            # Both connections take a moment to stand.
            for _ in range(200):
                client.features(images(1))
                if one.asked and two.asked:
                    break
            before = len(one.asked), len(two.asked)
            for _ in range(10):
                client.features(images(1))
            client.features(images(10))
            assert (len(one.asked) - before[0], len(two.asked) - before[1]) == (10, 10)
        # The second is gone; what it would have had the first one has.
        assert len(client.features(images(20))) == 20
        client.close()


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


def test_another_model_or_other_limits_behind_the_endpoint_are_asked_anew(client: VisionClient, vision: Vision) -> None:
    digests = []
    for entry, key, value in (("vision_encoder", "model", "b"), ("image_frontend", "max_pixels", "9"), ("", "", "")):
        digests += [each.digest for each in client.features([b"a", b"a"])]
        vision.parameters = {**vision.parameters, entry: {key: value}} if entry else vision.parameters
    assert vision.asked == [b"a"] * 3
    assert len(set(digests)) == 3
    vision.parameters = {"image_frontend": {"max_pixels": "0"}, "vision_encoder": {"model": "a"}}
    assert client.features([b"a"])[0].digest == digests[0], "what the first model said is still there"
    assert vision.asked == [b"a"] * 3


def test_an_image_whose_features_are_gone_is_asked_for_when_they_are_needed(vision: Vision) -> None:
    with served(vision, cache_bytes=24) as client:
        client.features([b"a"])
        client.features([b"b"])
        [found] = client.features([b"a"])
        assert isinstance(found.features, LazyFeatures) and vision.asked == [b"a", b"b"]
        assert (len(found.features), found.grid, found.features.array) == (2, (1, 2, 4), None)
        came = threading.Event()
        found.features.source.ask()
        found.features.source.then(came.set)
        assert came.wait(5)
        assert found.features[1:].array.tolist() == [[97.0] * 3]
        assert vision.asked == [b"a", b"b", b"a"]
        assert client.stats.num_calls == 3


def test_features_that_are_not_those_of_the_record_are_refused(vision: Vision) -> None:
    with served(vision, cache_bytes=0) as client:
        client.features([b"a"])
        [found] = client.features([b"a"])
        vision.make = lambda image: (np.zeros((3, 3), np.float32), (1, 2, 4))
        assert isinstance(found.features, LazyFeatures)
        error = failure(found.features.source)
        assert isinstance(error, DependencyDown) and "changed while it was asked" in str(error)


def test_an_encoder_that_is_gone_when_features_are_needed(vision: Vision) -> None:
    with served(vision, cache_bytes=0) as client:
        client.features([b"a"])
        [found] = client.features([b"a"])
    assert isinstance(found.features, LazyFeatures)
    assert failure(found.features.source) is not None, "a closed channel cannot be asked"
    assert repr(found.features.source) == "<FeatureSource failed>"


def failure(source: FeatureSource) -> BaseException | None:
    came = threading.Event()
    source.ask()
    source.then(came.set)
    assert came.wait(5)
    assert source.array is None
    return source.error


def test_nobody_at_the_endpoint() -> None:
    client = VisionClient("127.0.0.1:9", "vision", cache_bytes=100)
    with pytest.raises(DependencyDown, match="did not answer: UNAVAILABLE"):
        client.features([b"a"])
    client.close()


def test_the_same_image_with_other_bounds_is_another_one(client: VisionClient, vision: Vision) -> None:
    plain, small, same = client.features([b"a"] * 3, [Wishes(), Wishes(0, 100), Wishes(0, 100)])
    assert plain.digest != small.digest == same.digest
    assert vision.asked == [b"a", b"a"]
    assert sorted(vision.bounds, key=len) == [{}, {"max_pixels": 100}]


def test_requests_that_come_together_share_one_call(client: VisionClient, vision: Vision) -> None:
    vision.all_here = threading.Barrier(2)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.features, [b"a"]) for _ in range(8)]
        while not vision.asked:
            time.sleep(0.001)
        while client.stats.num_misses < 8:
            time.sleep(0.001)
        vision.all_here.wait(5)
        assert {each.result()[0].features[0, 0] for each in waiting} == {97}
    assert vision.asked == [b"a"]
    client.features([b"a"])
    assert client.stats == EncoderCacheStats(num_hits=1, num_misses=8, num_bytes=24, num_calls=1)


def test_a_shared_failure_reaches_all_and_stays_with_nobody(client: VisionClient, vision: Vision) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.features, [b"crash"]) for _ in range(4)]
    assert all(isinstance(each.exception(), DependencyDown) for each in waiting)
    with pytest.raises(DependencyDown):
        client.features([b"crash"])
    assert client.stats.num_bytes == 0


def image(name: bytes, num_bytes: int = 40) -> ImageFeatures:
    return ImageFeatures(np.zeros(num_bytes // 4, np.float32), (1, 2, 2), name)


def test_the_least_recently_used_features_are_dropped() -> None:
    cache = FeatureCache(100)
    cache.put(image(b"a"))
    cache.put(image(b"b"))
    assert cache.get(b"a") is not None
    cache.put(image(b"c"))
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.stats == EncoderCacheStats(num_hits=3, num_misses=1, num_evictions=1, num_bytes=80)
    assert repr(cache) == "<FeatureCache 2 images, 80/100 bytes>"


@pytest.mark.parametrize("max_bytes", [0, 39])
def test_what_is_larger_than_the_cache_is_not_kept(max_bytes: int) -> None:
    cache = FeatureCache(max_bytes)
    assert cache.put(image(b"a")).digest == b"a"
    assert repr(cache) == f"<FeatureCache 0 images, 0/{max_bytes} bytes>"
    assert cache.record(b"a") == image(b"a").record


def test_the_same_image_counts_once() -> None:
    cache = FeatureCache(100)
    cache.put(image(b"a"))
    cache.put(image(b"a"))
    assert repr(cache) == "<FeatureCache 1 images, 40/100 bytes>"
