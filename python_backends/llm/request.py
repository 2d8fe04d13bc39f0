"""Reading the tensors of one `llm` request. Knows the contract's names; knows no engine and no tokenizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from python_backends.errors import InvalidInput
from python_backends.types import Guide, GuideKind, SamplingParams


class Tensors(Protocol):
    """What this module asks of `triton_io.Inputs`."""

    request_id: str

    def array(self, name: str) -> np.ndarray[Any, Any] | None: ...
    def scalar(self, name: str, default: Any = None) -> Any: ...
    def text(self, name: str, default: str = "") -> str: ...
    def blobs(self, name: str) -> list[bytes]: ...
    def json(self, name: str) -> Any: ...


@dataclass(frozen=True)
class ChatRequest:
    """One request as the client wrote it; exactly one of messages, text_input and input_ids is set."""

    messages: list[Any] | None
    text_input: str
    input_ids: list[int] | None
    tools: list[Any] | None
    chat_template_kwargs: dict[str, Any]
    images: list[bytes]
    videos: list[bytes]
    image_embeds: np.ndarray[Any, Any] | None
    image_grid: np.ndarray[Any, Any] | None
    image_prompt: str
    bad_words: tuple[str, ...]
    stream: bool
    compact: bool
    echo: bool
    timeout_s: float | None
    cache_salt: str
    lora_name: str
    sampling: SamplingParams


# Tensor name -> SamplingParams field, where they differ.
_TENSORS = {
    "max_tokens": "max_tokens",
    "min_tokens": "min_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "return_log_probs": "logprobs",
    "num_return_sequences": "n",
}
_JSON_ONLY = {
    "min_p": float,
    "ignore_eos": bool,
    "top_logprobs": int,
    "priority": int,
    "skip_special_tokens": bool,
    "include_stop_str_in_output": bool,
}
_JSON_TOO = {
    "max_tokens": int,
    "min_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "seed": int,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "logprobs": bool,
    "n": int,
}
_NOT_SAMPLING = ("timeout_s", "cache_salt")


def read_request(tensors: Tensors, defaults: SamplingParams) -> ChatRequest:
    """Decode a request; what it leaves out comes from `defaults`. Raises InvalidInput naming the tensor at fault."""
    messages, text, ids = tensors.json("messages"), tensors.text("text_input"), tensors.array("input_ids")
    if sum((messages is not None, bool(text), ids is not None)) != 1:
        raise InvalidInput("exactly one of messages, text_input and input_ids is required", "messages")
    if messages is not None and not isinstance(messages, list):
        raise InvalidInput("must be a JSON list", "messages")
    given = _json_of(tensors, "sampling_parameters", dict) or {}
    return ChatRequest(
        messages=messages,
        text_input=text,
        input_ids=None if ids is None else ids.tolist(),
        tools=_json_of(tensors, "tools", list),
        chat_template_kwargs=_json_of(tensors, "chat_template_kwargs", dict) or {},
        images=tensors.blobs("image"),
        videos=tensors.blobs("video"),
        image_embeds=tensors.array("image_embeds"),
        image_grid=tensors.array("image_grid"),
        image_prompt=tensors.text("image_prompt"),
        bad_words=_words(tensors, "bad_words"),
        stream=bool(tensors.scalar("stream", True)),
        compact=bool(tensors.scalar("compact", False)),
        echo=not tensors.scalar("exclude_input_in_output", True),
        timeout_s=_timeout(given.get("timeout_s")),
        cache_salt=_salt(given.get("cache_salt")),
        lora_name=tensors.text("lora_name"),
        sampling=_sampling(tensors, given, defaults),
    )


def _sampling(tensors: Tensors, given: dict[str, Any], defaults: SamplingParams) -> SamplingParams:
    values: dict[str, Any] = _json_sampling(given)
    for tensor, field in _TENSORS.items():
        if (value := tensors.scalar(tensor)) is not None:
            values[field] = value
    # NVIDIA's clients send an empty stop word when they mean none.
    stop = _words(tensors, "stop_words")
    if stop:
        values["stop"] = stop
    values["logprobs"] = bool(values.get("logprobs") or values.get("top_logprobs"))
    values["guide"] = _guide(tensors)
    return dataclasses.replace(defaults, **values)


def _json_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `sampling_parameters`; an unknown key is refused, for it would be dropped otherwise."""
    scalars = {**_JSON_ONLY, **_JSON_TOO}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is None or key in _NOT_SAMPLING:
            continue
        if key == "logit_bias":
            values[key] = _logit_bias(value)
        elif key == "stop_token_ids":
            values[key] = frozenset(_number(item, int, key) for item in _list(value, key))
        elif key == "stop":
            values[key] = _stop(value)
        elif key in scalars:
            values[key] = _number(value, scalars[key], key)
        else:
            raise InvalidInput(f"unknown key {key!r}", "sampling_parameters")
    return values


def _number(value: Any, kind: type, key: str) -> Any:
    """`value` as `kind`; JSON's integers are floats too, but its booleans are not numbers."""
    fits = isinstance(value, bool) if kind is bool else isinstance(value, int | float) and not isinstance(value, bool)
    try:
        found = kind(value) if fits else None
    except (ValueError, OverflowError):  # not a number, infinite, or too long for a float
        found = None
    if found is None or found != value:
        raise InvalidInput(f"{key} must be of type {kind.__name__}, got {value!r:.40}", "sampling_parameters")
    return found


def _timeout(value: Any) -> float | None:
    seconds: float | None = None if value is None else _number(value, float, "timeout_s")
    if seconds is not None and seconds <= 0:
        raise InvalidInput(f"timeout_s must be greater than 0, got {value!r:.40}", "sampling_parameters")
    return seconds


def _salt(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"cache_salt must be text, got {value!r:.40}", "sampling_parameters")
    return value or ""


def _stop(value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else _list(value, "stop")
    if not all(isinstance(word, str) for word in words):
        raise InvalidInput(f"stop must be text or a list of texts, got {value!r:.40}", "sampling_parameters")
    return tuple(word for word in words if word)


def _logit_bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise InvalidInput("logit_bias must be an object of token ids and numbers", "sampling_parameters")
    try:
        return {int(token): float(bias) for token, bias in value.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"logit_bias: {error}", "sampling_parameters") from error


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{key} must be a list, got {value!r}", "sampling_parameters")
    return value


def _json_of(tensors: Tensors, name: str, kind: type) -> Any:
    value = tensors.json(name)
    if value is not None and not isinstance(value, kind):
        raise InvalidInput(f"must be a JSON {'list' if kind is list else 'object'}", name)
    return value


def _words(tensors: Tensors, name: str) -> tuple[str, ...]:
    try:
        return tuple(word.decode() for word in tensors.blobs(name) if word)
    except UnicodeDecodeError as error:
        raise InvalidInput("not valid UTF-8", name) from error


def _guide(tensors: Tensors) -> Guide | None:
    kind, text = tensors.text("guided_decoding_guide_type"), tensors.text("guided_decoding_guide")
    if text and not kind:
        raise InvalidInput("is required with a guide", "guided_decoding_guide_type")
    return Guide(cast(GuideKind, kind), text) if kind else None
