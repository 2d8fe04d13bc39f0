"""One sequence inside the engine: its tokens, how far they are computed, and where its keys and values live."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from python_backends.features import FeatureSource, LazyFeatures
from python_backends.types import Emit, GenerationRequest, ImageSpan

if TYPE_CHECKING:
    from python_backends.torch_engine.guided import Constraint

_FORKS = count(1)


@dataclass(eq=False)
class Sequence:
    """A request, or one of the `n` sequences of a request, that waits or runs.

    A request arrives as one sequence. The others are forks of it, made when its prompt is computed; `parent` is then
    its id. `constraint` is where a guided one is in its grammar. `tokens` are prompt and output; the first
    `num_computed` of them have keys and values in `slot`. `keys` name the content of the prompt's tokens: the token id,
    or for an image position a hash of the image and the offset in it. The scheduler goes by `order`, lowest first. The
    tokens of a range in `mutual` see each other in both directions, so one chunk must have them all.
    """

    request: GenerationRequest
    emit: Emit
    keys: Ordered[int]
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_cached: int = 0
    num_preemptions: int = 0
    slot: int | None = None
    arrived: float = field(default_factory=time.monotonic)
    queued_s: float = 0.0
    order: tuple[int, float, int, int] = (0, 0.0, 0, 0)
    constraint: Constraint | None = None
    index: int = 0
    parent: int | None = None
    is_over: bool = False
    mutual: Ordered[range] = ()
    id: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        # Requests count upwards, forks downwards, so that the two never meet.
        self.id = self.request.id if self.parent is None else -next(_FORKS)

    @property
    def unforked(self) -> range:
        """Indices of the request's sequences that do not exist yet."""
        waits = self.parent is None and not self.num_output_tokens
        return range(1, self.request.sampling.n) if waits else range(0)

    def fork(self, index: int) -> Sequence:
        """Another sequence of the same request, from the end of its prompt on."""
        return Sequence(
            self.request,
            self.emit,
            self.keys,
            self.max_tokens,
            num_cached=self.num_cached,
            queued_s=self.queued_s,
            arrived=self.arrived,
            constraint=self.constraint.fork() if self.constraint else None,
            index=index,
            parent=self.id,
            mutual=self.mutual,
        )

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def num_fresh(self) -> int:
        """How many of the last tokens are computed whatever the cache holds: one, to get logits, and what it sees."""
        last = len(self.tokens) - 1
        return next((len(self.tokens) - run.start for run in self.mutual if last in run), 1)

    def chunk_end(self, end: int) -> int:
        """Where a chunk ends that wants to go on to `end`: before a mutual range that it would cut, else behind it."""
        for run in self.mutual:
            if run.start < end < run.stop:
                return run.start if run.start > self.num_computed else run.stop
        return end

    @property
    def output_ids(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]

    def lacking(self, start: int) -> list[FeatureSource]:
        """Image features that are not here, and without which the tokens from `start` on cannot be computed."""
        needed = [image for image in self.request.images if image.beside or image.end > start]
        return [
            image.features.source
            for image in needed
            if image.array is None and isinstance(image.features, LazyFeatures)
        ]

    def content_keys(self, start: int, end: int) -> list[int]:
        """Keys of the tokens `start` to `end`; outputs are plain token ids."""
        return [*self.keys[start:end], *self.tokens[max(start, self.num_prompt_tokens) : end]]


def mutual_ranges(images: Ordered[ImageSpan]) -> tuple[range, ...]:
    """The tokens of each image; of images without a token between them, all of them, as the library has it."""
    ranges: list[range] = []
    for image in sorted(images, key=lambda image: image.start):
        follows = bool(ranges) and ranges[-1].stop == image.start
        ranges.append(range(ranges.pop().start if follows else image.start, image.end))
    return tuple(ranges)


def content_keys(request: GenerationRequest, mutual: Ordered[range] = ()) -> list[int]:
    """Token ids, and in place of an image's placeholders hashes of its content, so that only equal images match.

    Of what is `mutual` only the whole matches. A salt changes the first key; as prefixes begin there, prompts with
    different salts have nothing in common.
    """
    # The placeholders of two images are the same token; by ids alone one would get the other's answer.
    keys = list(request.prompt_ids)
    for image in request.images:
        keys[image.start : image.end] = _image_keys(image)
    if beside := [image for image in request.images if image.beside]:
        # Every token depends on all of them, those before an image too.
        keys[0] = _hashed(*(str(_image_keys(image)[0]).encode() for image in beside), str(keys[0]).encode())
    for run in mutual:
        content = repr(keys[run.start : run.stop]).encode()
        keys[run.start : run.stop] = [_hashed(content, offset.to_bytes(4, "little")) for offset in range(len(run))]
    if request.cache_salt:
        salt = hashlib.sha256(request.cache_salt.encode()).digest()
        keys[0] = _hashed(salt, b"cache_salt", str(keys[0]).encode())
    return keys


def _image_keys(image: ImageSpan) -> list[int]:
    """Keys from digest, grid, time and offset. Grid and time decide all later positions."""
    content = hashlib.sha256(image.digest + repr((image.grid, image.seconds_per_grid)).encode()).digest()
    return [_hashed(content, offset.to_bytes(4, "little")) for offset in range(image.end - image.start)]


def _hashed(*parts: bytes) -> int:
    """A negative number from SHA-256: never a token id."""
    return -int.from_bytes(hashlib.sha256(b"".join(parts)).digest(), "big")
