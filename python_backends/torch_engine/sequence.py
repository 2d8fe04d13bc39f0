"""One request inside the engine: its tokens, how far they are computed, and where its keys and values live."""

from __future__ import annotations

import time
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from python_backends.types import Emit, GenerationRequest


@dataclass(eq=False)
class Sequence:
    """A request that waits or runs.

    `tokens` are prompt and output; the first `num_computed` of them have keys and values in `slot`. `keys` name the
    content of the prompt's tokens: the token id, or for an image position a hash of the image and the offset in it.
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

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)

    @property
    def id(self) -> int:
        return self.request.id

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
    def output_ids(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]

    def content_keys(self, start: int, end: int) -> list[int]:
        """Keys of the tokens `start` to `end`; outputs are plain token ids."""
        return [*self.keys[start:end], *self.tokens[max(start, self.num_prompt_tokens) : end]]

    @property
    def order(self) -> tuple[int, float]:
        """Lower goes first: the priority, then the time of arrival."""
        return (self.request.sampling.priority, self.arrived)
