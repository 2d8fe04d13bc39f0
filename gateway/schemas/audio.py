"""Transcriptions and translations: the form's fields, which go together, and what becomes which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field
from starlette.datastructures import FormData

from gateway.errors import InvalidRequest
from gateway.schemas.common import BodyFields, RequestSchema, Schema, log_unknown, refuse_unsupported, validate
from gateway.tensors import Value

NOT_YET: dict[str, tuple[object, ...]] = {
    "keywords": (),
    "keywords[]": (),
    "hotwords": (),
    "languages": (),
    "languages[]": (),
    "known_speaker_names[]": (),
    "known_speaker_references[]": (),
    "to_language": (),
    "use_beam_search": ("false",),
    "n": ("1",),
}

IGNORED = ("file", "user")
LISTS = ("timestamp_granularities", "include")
# Forms have no nesting; the official client writes chunking_strategy[threshold]=0.5.
STRATEGY = "chunking_strategy"
# A segment is all that these formats hold, and its times need the model's timestamps.
TIMED_FORMATS = ("srt", "vtt", "verbose_json")


class TranslationRequest(RequestSchema):
    """The fields of POST /v1/audio/translations beside `file`. A form carries texts: numbers are read from them."""

    model: str | None = None
    prompt: str | None = Field(None, max_length=10_000)
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float | None = Field(None, ge=0, le=1, strict=False)
    seed: int | None = Field(None, ge=0, lt=2**63, strict=False)


class TranscriptionRequest(TranslationRequest):
    """The fields of POST /v1/audio/transcriptions beside `file`."""

    task: str = "transcribe"
    language: str | None = Field(None, max_length=32)
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    include: tuple[Literal["logprobs"], ...] = ()
    stream: bool = Field(False, strict=False)
    chunking_strategy: str | None = Field(None, max_length=1000)

    @property
    def with_logprobs(self) -> bool:
        return "logprobs" in self.include

    @property
    def granularities(self) -> tuple[str, ...]:
        return self.timestamp_granularities or ("segment",)


class FormFields(BodyFields[Schema]):
    """The fields of a multipart form: beside those of the schema, the file, and lists under their names with []."""

    def json_schema(self) -> dict[str, Any]:
        schema = super().json_schema()
        properties = schema["properties"]
        properties.pop("task", None)
        properties |= {f"{name}[]": properties[name] for name in LISTS if name in properties}
        properties["file"] = {"type": "string", "contentMediaType": "application/octet-stream"}
        return schema | {"required": [*schema.get("required", ()), "file"]}


TRANSCRIPTION = FormFields(TranscriptionRequest, NOT_YET, ("user",))
TRANSLATION = FormFields(TranslationRequest, NOT_YET, ("user",))


def read_transcription_request(form: FormData) -> TranscriptionRequest:
    """Raises InvalidRequest or Unsupported. Empty fields count as absent: browsers send them."""
    values = _values(form)
    for name in LISTS:
        if given := [value for key in (name, f"{name}[]") for value in form.getlist(key) if value]:
            values[name] = tuple(given)
    values.pop("task", None)
    if strategy := _strategy(values):
        values[STRATEGY] = strategy
    request = validate(TranscriptionRequest, values)
    _check_combinations(request)
    known = [*TranscriptionRequest.model_fields, *(f"{name}[]" for name in LISTS), *_strategy_fields(values)]
    log_unknown(form, [*known, *NOT_YET, *IGNORED])
    return request


def read_translation_request(form: FormData) -> TranscriptionRequest:
    """Raises InvalidRequest or Unsupported."""
    request = validate(TranslationRequest, _values(form))
    log_unknown(form, [*TranslationRequest.model_fields, *NOT_YET, *IGNORED])
    return TranscriptionRequest(**request.model_dump(), task="translate")


def transcription_inputs(request: TranscriptionRequest, audio: bytes) -> dict[str, Value]:
    """The values of the speech model's input tensors; `audio` is the file as it was sent. Raises InvalidRequest.

    Temperature 0 is left to the model, which then raises it by itself where a text is doubtful: that is what OpenAI
    says of 0.
    """
    if not audio:
        raise InvalidRequest("the file is empty", "file")
    optional: dict[str, Value | None] = {
        "task": request.task if request.task != "transcribe" else None,
        "language": request.language,
        "prompt": request.prompt,
        "temperature": request.temperature or None,
        "seed": request.seed,
        "timestamps": True if request.response_format in TIMED_FORMATS else None,
        "word_timestamps": True if "word" in request.timestamp_granularities else None,
        "return_log_probs": True if request.with_logprobs else None,
        STRATEGY: request.chunking_strategy,
    }
    # Also an answer in one piece is read part by part: silence for minutes would look like a model that hangs.
    always: dict[str, Value] = {"audio": audio, "stream": True}
    return always | {name: value for name, value in optional.items() if value is not None}


def _values(form: FormData) -> dict[str, Any]:
    values = {name: value for name, value in form.items() if isinstance(value, str) and value}
    refuse_unsupported(values, NOT_YET)
    return values


def _strategy_fields(values: Mapping[str, Any]) -> list[str]:
    return [name for name in values if name.startswith(f"{STRATEGY}[")]


def _strategy(values: Mapping[str, Any]) -> str | None:
    """`auto`, or an object as JSON or in fields, as the JSON text of the tensor."""
    given = values.get(STRATEGY)
    if given is not None:
        return '"auto"' if given == "auto" else str(given)
    fields = {name[len(STRATEGY) + 1 : -1]: _number(values[name]) for name in _strategy_fields(values)}
    return orjson.dumps(fields).decode() if fields else None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _check_combinations(request: TranscriptionRequest) -> None:
    form = request.response_format
    if request.timestamp_granularities and form != "verbose_json":
        text = f"timestamp_granularities needs response_format verbose_json, got {form}"
        raise InvalidRequest(text, "timestamp_granularities")
    if request.include and form != "json":
        raise InvalidRequest(f"include logprobs needs response_format json, got {form}", "include")
    if request.stream and form not in ("json", "text"):
        raise InvalidRequest(f"stream needs response_format json or text, got {form}", "stream")
