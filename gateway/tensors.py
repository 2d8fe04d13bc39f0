"""Tensors in bytes: builds the raw inputs of a request and reads the raw outputs of a response.

Knows the names, types and shapes of docs/contracts.md and the KServe raw form (little-endian; BYTES elements carry a
4-byte length). Knows neither OpenAI's shapes nor gRPC. No numpy: this is the path of every token.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Value = bool | int | float | str | bytes | Sequence[str] | Sequence[bytes] | Sequence[int]

INPUT_TYPES = {
    "messages": "BYTES",
    "tools": "BYTES",
    "chat_template_kwargs": "BYTES",
    "text_input": "BYTES",
    "input_ids": "INT32",
    "image": "BYTES",
    "video": "BYTES",
    "max_tokens": "INT32",
    "min_tokens": "INT32",
    "top_k": "INT32",
    "temperature": "FP32",
    "top_p": "FP32",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "seed": "UINT64",
    "stop_words": "BYTES",
    "bad_words": "BYTES",
    "num_return_sequences": "INT32",
    "return_log_probs": "BOOL",
    "stream": "BOOL",
    "compact": "BOOL",
    "sampling_parameters": "BYTES",
    "lora_name": "BYTES",
    "guided_decoding_guide_type": "BYTES",
    "guided_decoding_guide": "BYTES",
    "text": "BYTES",
    "add_generation_prompt": "BOOL",
    "add_special_tokens": "BOOL",
    "audio": "BYTES",
    "language": "BYTES",
    "task": "BYTES",
    "prompt": "BYTES",
    "timestamps": "BOOL",
    "word_timestamps": "BOOL",
    "chunking_strategy": "BYTES",
}

# KServe's raw form is little-endian on every machine.
_FORMATS = {"INT32": "i", "UINT64": "Q", "FP32": "f", "BOOL": "?"}


class Tensor(NamedTuple):
    """One input of a batch of one: shape [1, n]."""

    name: str
    datatype: str
    shape: tuple[int, int]
    raw: bytes


class ChatOutput(NamedTuple):
    """One response of `llm`. Counts are in tokens; `num_output_tokens` counts this response only.

    `choice` is the number of the answer that it belongs to; `logprobs` and `timings` are JSON, or empty.
    """

    choice: int
    text: str
    finish_reason: str
    stop_reason: str
    num_input_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    num_image_tokens: int
    logprobs: bytes
    timings: bytes


class TranscriptionOutput(NamedTuple):
    """One response of the speech model: what is new in it, but for the `duration` heard so far, in seconds.

    `segments` and `logprobs` are JSON, or empty; `language_name` is that of the language that was heard.
    """

    text: str
    language_name: str
    duration: float
    finish_reason: str
    segments: bytes
    logprobs: bytes
    num_output_tokens: int
    num_prompt_tokens: int
    num_audio_tokens: int


class TokenizerOutput(NamedTuple):
    """The response of `tokenizer`."""

    ids: list[int]
    text: str


def encode(values: Mapping[str, Value]) -> list[Tensor]:
    """Turns named values into tensors; a sequence gives shape [1, n], anything else [1, 1]."""
    return [_encode_one(name, value) for name, value in values.items()]


def chat_output(raw: Mapping[str, bytes], first_index: int = 0) -> ChatOutput:
    """Reads one response of `llm`; outputs that are missing count as empty or zero."""
    get = raw.get
    return ChatOutput(
        first_index + int.from_bytes(get("sequence_index", b""), "little"),
        read_text(get("text_output", b"")),
        read_text(get("finish_reason", b"")),
        read_text(get("stop_reason", b"")),
        int.from_bytes(get("num_input_tokens", b""), "little"),
        int.from_bytes(get("num_output_tokens", b""), "little"),
        int.from_bytes(get("num_cached_tokens", b""), "little"),
        int.from_bytes(get("num_image_tokens", b""), "little"),
        get("logprobs", b"")[4:],
        get("timings", b"")[4:],
    )


def transcription_output(raw: Mapping[str, bytes]) -> TranscriptionOutput:
    get = raw.get
    duration = get("duration", b"")
    return TranscriptionOutput(
        read_text(get("text", b"")),
        read_text(get("audio_language_name", b"")),
        struct.unpack("<f", duration)[0] if len(duration) == 4 else 0.0,
        read_text(get("finish_reason", b"")),
        get("segments", b"")[4:],
        get("logprobs", b"")[4:],
        int.from_bytes(get("num_output_tokens", b""), "little"),
        int.from_bytes(get("num_prompt_tokens", b""), "little"),
        int.from_bytes(get("num_audio_tokens", b""), "little"),
    )


def tokenizer_output(raw: Mapping[str, bytes]) -> TokenizerOutput:
    ids = raw.get("ids", b"")
    return TokenizerOutput(list(struct.unpack(f"<{len(ids) // 4}i", ids)), read_text(raw.get("text", b"")))


def read_text(raw: bytes) -> str:
    """Reads a BYTES tensor of one element; b"" reads as ""."""
    return raw[4:].decode("utf-8", "replace")


def _encode_one(name: str, value: Value) -> Tensor:
    datatype = INPUT_TYPES[name]
    if datatype != "BYTES":
        numbers = value if isinstance(value, Sequence) else (value,)
        return Tensor(name, datatype, (1, len(numbers)), struct.pack(f"<{len(numbers)}{_FORMATS[datatype]}", *numbers))
    items = [value] if isinstance(value, str | bytes) else value
    assert isinstance(items, Sequence)
    return Tensor(name, datatype, (1, len(items)), b"".join(map(_bytes_element, items)))


def _bytes_element(item: Any) -> bytes:
    data: bytes = item.encode() if isinstance(item, str) else item
    return len(data).to_bytes(4, "little") + data
