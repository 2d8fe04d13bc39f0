"""Chat completions: the request's fields, and how they become the values of `llm`'s tensors.

Knows OpenAI's names and ranges and the contract's names; knows no chat template: messages go to the model as they are,
with every image replaced by a placeholder part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import ConfigDict, Field, field_validator, model_validator

from gateway.errors import InvalidRequest, PayloadTooLarge, Unsupported
from gateway.media import image_bytes
from gateway.schemas.common import RequestSchema, log_unknown, parse_json, refuse_unsupported, validate
from gateway.tensors import Value

# OpenAI and vLLM allow 4; the model needs no such limit, so this one only bounds the work.
MAX_STOP = 16
PART_TYPES = "text and image_url"

# Fields that would change the answer and cannot be honoured yet, with the values that ask for nothing.
NOT_YET: dict[str, tuple[object, ...]] = {
    "tools": (),
    "tool_choice": ("none",),
    "functions": (),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "documents": (),
    "truncate_prompt_tokens": (),
    "return_token_ids": (False,),
    "mm_processor_kwargs": (),
    "media_io_kwargs": (),
    "cache_salt": (),
}

# Fields that do not change the answer.
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "request_id",
)


class StreamOptions(RequestSchema):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class ChatMessage(RequestSchema):
    """One message; other keys (name, tool_calls, tool_call_id) belong to the model's template and are handed on."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None


class ChatRequest(RequestSchema):
    """The fields of POST /v1/chat/completions that the gateway honours; `max_tokens` counts tokens."""

    model: str | None = None
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Any = None
    bad_words: list[str] | None = Field(None, max_length=128)
    n: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    logit_bias: dict[str, float] | None = Field(None, max_length=1024)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=128)
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: Any) -> list[str]:
        # A union type would report each of its branches, under paths that no client has written.
        items = [value] if isinstance(value, str) else value or []
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
    def _check_together(self) -> ChatRequest:
        if self.n not in (None, 1):
            raise Unsupported("n can only be 1 for now.", "n")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", "top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream: true", "stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def usage_on_every_chunk(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def max_tokens_field(self) -> str:
        """The name under which the client gave the limit; max_completion_tokens wins when both are sent."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


class Prompt(NamedTuple):
    """The messages as the wire wants them (JSON), and their images in order, as encoded bytes."""

    messages: bytes
    images: list[bytes]


def read_chat_request(body: bytes) -> ChatRequest:
    """Raises InvalidRequest or Unsupported."""
    values = parse_json(body)
    refuse_unsupported(values, NOT_YET)
    request = validate(ChatRequest, values)
    log_unknown(values, [*ChatRequest.model_fields, *NOT_YET, *IGNORED])
    return request


def read_prompt(messages: list[ChatMessage], max_images: int, max_image_bytes: int) -> Prompt:
    """Splits the images off. Raises InvalidRequest, Unsupported or PayloadTooLarge with the path of the part."""
    images: list[bytes] = []
    wire = [_wire_message(message, f"messages.{i}", images, max_image_bytes) for i, message in enumerate(messages)]
    if len(images) > max_images:
        raise InvalidRequest(f"At most {max_images} images are allowed in one request, got {len(images)}.", "messages")
    return Prompt(_to_json(wire, "messages"), images)


def chat_inputs(request: ChatRequest, prompt: Prompt) -> dict[str, Value]:
    """The values of `llm`'s input tensors; a field that the client left out is left out here too."""
    optional: dict[str, Value | None] = {
        "max_tokens": request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens,
        "min_tokens": request.min_tokens,
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
        "image": prompt.images or None,
        "return_log_probs": request.logprobs or None,
        "chat_template_kwargs": _json_or_none(request.chat_template_kwargs, "chat_template_kwargs"),
        "sampling_parameters": _json_or_none(_sampling_parameters(request), "sampling_parameters"),
    }
    required: dict[str, Value] = {"messages": prompt.messages, "stream": bool(request.stream)}
    return required | {name: value for name, value in optional.items() if value is not None}


def _sampling_parameters(request: ChatRequest) -> dict[str, Any]:
    names = (
        "min_p",
        "logit_bias",
        "stop_token_ids",
        "ignore_eos",
        "top_logprobs",
        "skip_special_tokens",
        "include_stop_str_in_output",
    )
    return {name: value for name in names if (value := getattr(request, name)) is not None}


def _wire_message(message: ChatMessage, path: str, images: list[bytes], max_image_bytes: int) -> dict[str, Any]:
    # OpenAI's newer name for the same role, which templates do not know.
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, list):
        content = [
            _wire_part(part, f"{path}.content.{index}", images, max_image_bytes) for index, part in enumerate(content)
        ]
    elif content is None and message.role != "assistant":
        raise InvalidRequest("content is required", f"{path}.content", "missing_required")
    elif not isinstance(content, str | None):
        raise InvalidRequest("content must be a text or a list of parts", f"{path}.content")
    return {"role": role, "content": content, **(message.model_extra or {})}


def _wire_part(part: Any, path: str, images: list[bytes], max_image_bytes: int) -> dict[str, str]:
    # `detail` is accepted and has no effect: the entry's pixel bounds decide the size, as in vLLM.
    if not isinstance(part, dict):
        raise InvalidRequest("a content part must be an object", path)
    kind = part.get("type") or ("image_url" if "image_url" in part else None)
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InvalidRequest("text must be a text", f"{path}.text")
        return {"type": "text", "text": part["text"]}
    if kind in ("image_url", "image"):
        reference, where = _reference(part, path)
        try:
            images.append(image_bytes(reference, where, max_image_bytes))
        except PayloadTooLarge as error:
            raise InvalidRequest(str(error), where, error.code) from None
        return {"type": "image"}
    raise Unsupported(f"content parts of type {str(kind)[:50]!r} are not supported, only {PART_TYPES}", f"{path}.type")


def _reference(part: Mapping[str, Any], path: str) -> tuple[str, str]:
    """Finds the image in {"image_url": {"url"}}, {"image_url": text}, {"image": text} or {"image": {"url"}}."""
    key = next((key for key in ("image_url", "image") if key in part), "image_url")
    value, where = part.get(key), f"{path}.{key}"
    if isinstance(value, dict):
        value, where = value.get("url"), f"{where}.url"
    if not isinstance(value, str) or not value:
        raise InvalidRequest("must be a data URL or base64", where)
    return value, where


def _json_or_none(value: dict[str, Any] | None, param: str) -> bytes | None:
    return _to_json(value, param) if value else None


def _to_json(value: Any, param: str) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise InvalidRequest("the value cannot be written as JSON", param) from None
