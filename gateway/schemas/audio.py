"""Transcriptions: the form's fields, and how they become the values of `transcription`'s tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas.common import RequestSchema, log_unknown, refuse_unsupported, validate
from gateway.tensors import TranscriptionOutput, Value

FORMATS = ("json", "text")

NOT_YET: dict[str, tuple[object, ...]] = {
    "stream": ("false", "False", "0"),
    "chunking_strategy": ("auto",),
    "include[]": (),
    "include": (),
    "keywords": (),
    "hotwords": (),
    "languages": (),
    "known_speaker_names[]": (),
    "known_speaker_references[]": (),
    "timestamp_granularities[]": (),
    "timestamp_granularities": (),
    "to_language": (),
    "use_beam_search": ("false",),
    "n": ("1",),
}

IGNORED = ("file", "user")


class TranscriptionRequest(RequestSchema):
    """The fields of POST /v1/audio/transcriptions beside `file`. A form carries texts: numbers are read from them."""

    model: str | None = None
    language: str | None = Field(None, max_length=32)
    prompt: str | None = Field(None, max_length=10_000)
    response_format: str | None = None
    temperature: float | None = Field(None, ge=0, le=1, strict=False)


def read_transcription_request(form: Mapping[str, Any]) -> TranscriptionRequest:
    """Raises InvalidRequest or Unsupported. Empty fields count as absent: browsers send them."""
    values = {name: value for name, value in form.items() if isinstance(value, str) and value}
    refuse_unsupported(values, NOT_YET)
    if values.get("response_format", "json") not in FORMATS:
        raise Unsupported("response_format can only be " + " or ".join(FORMATS) + " for now.", "response_format")
    request = validate(TranscriptionRequest, values)
    log_unknown(form, [*TranscriptionRequest.model_fields, *NOT_YET, *IGNORED])
    return request


def transcription_inputs(request: TranscriptionRequest, audio: bytes) -> dict[str, Value]:
    """The values of `transcription`'s input tensors; `audio` is the file as it was sent. Raises InvalidRequest."""
    if not audio:
        raise InvalidRequest("the file is empty", "file")
    optional: dict[str, Value | None] = {
        "language": request.language,
        "prompt": request.prompt,
        "temperature": request.temperature,
    }
    return {"audio": audio} | {name: value for name, value in optional.items() if value is not None}


def transcription_body(output: TranscriptionOutput) -> dict[str, Any]:
    """The `json` answer; the duration is in whole seconds, rounded up, as OpenAI bills it."""
    return {"text": output.text, "usage": {"type": "duration", "seconds": math.ceil(output.duration)}}
