"""Tensors in bytes: builds the raw inputs of a request and reads the raw outputs of a response.

Knows the names, types and shapes of docs/contracts.md and the KServe raw form (little-endian; BYTES elements carry a
4-byte length). Knows neither OpenAI's shapes nor gRPC. No numpy: this is the path of every token.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Value = bool | int | float | str | bytes | Sequence[str] | Sequence[bytes]

INPUT_TYPES = {
    "messages": "BYTES",
    "tools": "BYTES",
    "chat_template_kwargs": "BYTES",
    "image": "BYTES",
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
    "return_log_probs": "BOOL",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "audio": "BYTES",
    "language": "BYTES",
    "task": "BYTES",
    "prompt": "BYTES",
    "timestamps": "BOOL",
}

# KServe's raw form is little-endian on every machine.
_FORMATS = {"INT32": "<i", "UINT64": "<Q", "FP32": "<f", "BOOL": "<?"}


class Tensor(NamedTuple):
    """One input of a batch of one: shape [1, n]."""

    name: str
    datatype: str
    shape: tuple[int, int]
    raw: bytes


class ChatOutput(NamedTuple):
    """One response of `llm`. Counts are in tokens; `num_output_tokens` counts this response only."""

    text: str
    finish_reason: str
    stop_reason: str
    num_input_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    num_image_tokens: int
    logprobs: bytes


class TranscriptionOutput(NamedTuple):
    """One response of `transcription`; `duration` is in seconds, `language` the one that was heard."""

    text: str
    language: str
    duration: float
    finish_reason: str


def encode(values: Mapping[str, Value]) -> list[Tensor]:
    """Turns named values into tensors; a sequence gives shape [1, n], anything else [1, 1]."""
    return [_encode_one(name, value) for name, value in values.items()]


def chat_output(raw: Mapping[str, bytes]) -> ChatOutput:
    """Reads one response of `llm`; outputs that are missing count as empty or zero."""
    get = raw.get
    return ChatOutput(
        read_text(get("text_output", b"")),
        read_text(get("finish_reason", b"")),
        read_text(get("stop_reason", b"")),
        int.from_bytes(get("num_input_tokens", b""), "little"),
        int.from_bytes(get("num_output_tokens", b""), "little"),
        int.from_bytes(get("num_cached_tokens", b""), "little"),
        int.from_bytes(get("num_image_tokens", b""), "little"),
        get("logprobs", b"")[4:],
    )


def transcription_output(raw: Mapping[str, bytes]) -> TranscriptionOutput:
    duration = raw.get("duration", b"")
    return TranscriptionOutput(
        read_text(raw.get("text", b"")),
        read_text(raw.get("audio_language", b"")),
        struct.unpack("<f", duration)[0] if len(duration) == 4 else 0.0,
        read_text(raw.get("finish_reason", b"")),
    )


def read_text(raw: bytes) -> str:
    """Reads a BYTES tensor of one element; b"" reads as ""."""
    return raw[4:].decode("utf-8", "replace")


def _encode_one(name: str, value: Value) -> Tensor:
    datatype = INPUT_TYPES[name]
    if datatype != "BYTES":
        return Tensor(name, datatype, (1, 1), struct.pack(_FORMATS[datatype], value))
    items = [value] if isinstance(value, str | bytes) else value
    assert isinstance(items, Sequence)
    return Tensor(name, datatype, (1, len(items)), b"".join(map(_bytes_element, items)))


def _bytes_element(item: str | bytes) -> bytes:
    data = item.encode() if isinstance(item, str) else item
    return len(data).to_bytes(4, "little") + data
