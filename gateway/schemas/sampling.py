"""What chat and text completions ask alike: how tokens are drawn, when to stop, and what to tell beside the text."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import Field, WithJsonSchema, field_validator, model_validator
from typing_extensions import Self

from gateway.errors import InvalidRequest
from gateway.limits import CALLER
from gateway.schemas.common import RequestSchema
from gateway.schemas.shapes import NONEMPTY, NULL, list_of, one_of
from gateway.tensors import Value

# OpenAI and vLLM allow 4; the model needs no such limit, so this one only bounds the work.
MAX_STOP = 16
# OpenAI's own limit.
MAX_N = 128

# Fields that would change the answer and cannot be honoured, with the values that ask for nothing.
NOT_SUPPORTED: dict[str, tuple[object, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "truncate_prompt_tokens": (),
    "return_token_ids": (False,),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "logits_processors": ([],),
    "thinking_token_budget": (),
    "guided_whitespace_pattern": (),
    "vllm_xargs": (),
}

# Fields that do not change the answer.
IGNORED = ("user", "metadata", "request_id", "guided_decoding_backend")

# Fields that travel in the JSON of the tensor `sampling_parameters`, under the same names.
_IN_JSON = (
    "min_p",
    "logit_bias",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "priority",
    "cache_salt",
    "timeout_s",
)


class StreamOptions(RequestSchema):
    include_usage: bool = False
    continuous_usage_stats: bool = False


_BIASES: dict[str, Any] = {
    "propertyNames": {"pattern": "^[0-9]+$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}


class SamplingFields(RequestSchema):
    """Ranges are OpenAI's where it has one, else vLLM's; what is left out is the model's to choose."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    n: int | None = Field(None, ge=1, le=MAX_N)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[Any, WithJsonSchema(one_of(NONEMPTY, list_of(NONEMPTY, maxItems=MAX_STOP), NULL))] = None
    bad_words: list[str] | None = Field(None, max_length=128)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    logit_bias: dict[str, float] | None = Field(None, max_length=1024, json_schema_extra=_BIASES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=128)
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    priority: int | None = Field(None, ge=-(2**31), lt=2**31)
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)
    timeout_s: float | None = Field(None, gt=0, lt=2**31)

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: Any) -> list[str]:
        # A union type would report each of its branches, under paths that no client has written.
        items = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
            raise ValueError("must be a text, or a list of texts, none of them empty")
        if len(items) > MAX_STOP:
            raise ValueError(f"holds {len(items)} texts, at most {MAX_STOP} are allowed")
        return items

    @field_validator("logit_bias")
    @classmethod
    def _check_logit_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (value or {}).items():
            if not (token.isascii() and token.isdecimal()):
                raise ValueError("keys must be token ids")
            if not -100 <= bias <= 100:
                raise ValueError("values must lie between -100 and 100")
        return value

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream: true", "stream_options")
        return self

    @property
    def num(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def usage_on_every_chunk(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats


def sampling_inputs(request: SamplingFields, **more: Any) -> dict[str, Value]:
    """The values of `llm`'s input tensors for these fields, without those that the client left out.

    `more` goes into the tensor `sampling_parameters` where the client has not said it.
    """
    said = {name: value for name in _IN_JSON if (value := getattr(request, name)) is not None}
    # Prefixes of one API key are found by its own requests only, unless the client says whom it shares them with.
    ours = {"cache_salt": CALLER.get().cache_salt, **more}
    parameters = {name: value for name, value in ours.items() if value is not None} | said
    optional: dict[str, Value | None] = {
        "max_tokens": request.max_tokens,
        "min_tokens": request.min_tokens,
        "num_return_sequences": request.n,
        "temperature": request.temperature,
        "top_p": request.top_p,
        # -1 is vLLM's way to say off, 0 is Hugging Face's.
        "top_k": None if request.top_k is None else max(request.top_k, 0),
        # The tensor is unsigned; OpenAI's seed may be negative.
        "seed": None if request.seed is None else request.seed % 2**64,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "stop_words": request.stop or None,
        "bad_words": request.bad_words or None,
        "sampling_parameters": to_json(parameters, "sampling_parameters") if parameters else None,
    }
    return {name: value for name, value in optional.items() if value is not None}


def to_json(value: Any, param: str) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise InvalidRequest("the value cannot be written as JSON", param) from None
