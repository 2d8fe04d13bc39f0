"""The nouns that every engine and the `llm` entry share. Imports nothing of the project but errors and features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, get_args

from python_backends.errors import InvalidInput
from python_backends.features import Array, LazyFeatures


class FinishReason(str, Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


GuideKind = Literal["json", "json_schema", "regex", "ebnf_grammar", "choice", "structural_tag"]


@dataclass(frozen=True)
class Guide:
    """What the output must look like: `text` is the schema, pattern or grammar that `kind` says; empty for json."""

    kind: GuideKind
    text: str = ""

    def __post_init__(self) -> None:
        known = get_args(GuideKind)
        if self.kind not in known:
            raise InvalidInput(f"must be one of {', '.join(known)}, got {self.kind!r}", "guided_decoding_guide_type")
        if not self.text and self.kind != "json":
            raise InvalidInput(f"the guide of type {self.kind} is empty", "guided_decoding_guide")


# What is colder than this is greedy: logits divided by less leave the range of float32.
_COLDEST = 1e-5


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn, and when to stop. Field names are those of vLLM and Hugging Face.

    `n` sequences continue the prompt, the i-th drawn with the seed `seed + i`. `min_tokens` come before any end: before
    end tokens, `stop_token_ids` and `stop` words. Raises InvalidInput, naming the field, for a value out of range.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    priority: int = 0
    n: int = 1
    guide: Guide | None = None

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidInput(f"must be between {low} and {high}, got {value}", name)
        if self.repetition_penalty <= 0 or self.top_p <= 0:
            name = "top_p" if self.top_p <= 0 else "repetition_penalty"
            raise InvalidInput(f"must be greater than 0, got {getattr(self, name)}", name)
        for token_id, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise InvalidInput(f"must be between -100 and 100, got {bias} for token {token_id}", "logit_bias")

    @property
    def greedy(self) -> bool:
        return self.temperature < _COLDEST


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 1, 2**31 - 1),
    ("min_tokens", 0, 2**31 - 1),
    ("temperature", 0, 100),
    ("top_p", 0, 1),
    ("top_k", -1, 2**31 - 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0, 100),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("top_logprobs", 0, 20),
    ("seed", 0, 2**64 - 1),
    ("n", 1, 2**31 - 1),
    ("priority", -(2**31), 2**31 - 1),
)


@dataclass(frozen=True)
class ImageSpan:
    """An image or a video inside a prompt: the tokens `start` to `start + len(features)` stand for it.

    features [n, d] float32, one row per placeholder token, or the promise of them; grid is Hugging Face's
    image_grid_thw; digest is the key of everything that is cached about the image. seconds_per_grid is the time between
    the patches of a video, 0 for an image. Features `beside` the prompt are attended to, and one token stands for all.
    """

    start: int
    features: Array | LazyFeatures
    grid: tuple[int, int, int]
    digest: bytes
    seconds_per_grid: float = 0.0
    beside: bool = False

    @property
    def end(self) -> int:
        return self.start + (1 if self.beside else len(self.features))

    @property
    def array(self) -> Array | None:
        """The features if they are here."""
        return self.features.array if isinstance(self.features, LazyFeatures) else self.features


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt, placeholders already expanded to one token per image feature, and how to continue it.

    After `deadline`, a moment of time.monotonic(), it ends with DeadlineExceeded. Requests with different `cache_salt`
    never find each other's prefixes. `lora_name` is one of the engine's adapters, or empty for none.
    """

    id: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    images: tuple[ImageSpan, ...] = ()
    deadline: float | None = None
    cache_salt: str = ""
    lora_name: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """log p of the drawn token under the unmodified distribution, and of the most likely ones."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenEvent:
    """What an engine emits: one new token, the end of a sequence, or a failure that ends only this request.

    `index` says which of the request's sequences; `queued_s` how long it waited for its turn. `stop_token_id` is set
    when that token ended the generation (it is then not part of the text).
    """

    token_id: int | None = None
    logprob: TokenLogprob | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_cached_tokens: int = 0
    error: BaseException | None = None
    index: int = 0
    queued_s: float = 0.0


Emit = Callable[[TokenEvent], None]
