"""What `llm` keeps of images: the features of a few, and of many more what a prompt must know of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

from python_backends.features import Array, LazyFeatures
from python_backends.metrics import EncoderCacheStats

# Some hundred bytes each.
_MAX_RECORDS = 16_384


@dataclass(frozen=True)
class ImageRecord:
    """What a prompt is made by: how many features, image_grid_thw, and what stands for the image or video.

    `prompt` is what its placeholder becomes where that is more than a run of placeholders, else empty. seconds_per_grid
    is the time between the patches of a video, 0 for an image.
    """

    num_tokens: int
    grid: tuple[int, int, int]
    prompt: str
    seconds_per_grid: float = 0.0


@dataclass(frozen=True)
class ImageFeatures:
    """features [n, d] float32 or the promise of them, and what `ImageRecord` says; `digest` is the image's key."""

    features: Array | LazyFeatures
    grid: tuple[int, int, int]
    digest: bytes
    prompt: str = ""
    seconds_per_grid: float = 0.0

    @property
    def record(self) -> ImageRecord:
        return ImageRecord(len(self.features), self.grid, self.prompt, self.seconds_per_grid)


class FeatureCache:
    """Least recently used features within a budget of bytes, and the latest records; safe to use from several threads.

    Features of which only a promise is known are never put in.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self._records: OrderedDict[bytes, ImageRecord] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = self._evictions = 0

    def __repr__(self) -> str:
        return f"<FeatureCache {len(self._entries)} images, {self._bytes}/{self._max_bytes} bytes>"

    @property
    def stats(self) -> EncoderCacheStats:
        return EncoderCacheStats(self._hits, self._misses, self._evictions, self._bytes)

    def get(self, digest: bytes) -> ImageFeatures | None:
        with self._lock:
            found = self._entries.get(digest)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._entries.move_to_end(digest)
            return found

    def peek(self, digest: bytes) -> ImageFeatures | None:
        """As `get`, but nothing is counted."""
        with self._lock:
            return self._entries.get(digest)

    def record(self, digest: bytes) -> ImageRecord | None:
        with self._lock:
            found = self._records.get(digest)
            if found is not None:
                self._records.move_to_end(digest)
            return found

    def put(self, image: ImageFeatures) -> ImageFeatures:
        """Raises nothing; of what is larger than the whole budget only the record is kept."""
        num_bytes = cast(Array, image.features).nbytes
        with self._lock:
            self._keep_record(image)
            if image.digest in self._entries or num_bytes > self._max_bytes:
                return image
            self._entries[image.digest] = image
            self._bytes += num_bytes
            while self._bytes > self._max_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._bytes -= cast(Array, evicted.features).nbytes
                self._evictions += 1
        return image

    def _keep_record(self, image: ImageFeatures) -> None:
        self._records[image.digest] = image.record
        self._records.move_to_end(image.digest)
        if len(self._records) > _MAX_RECORDS:
            self._records.popitem(last=False)
