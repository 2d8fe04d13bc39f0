"""The settings of a realtime session, in both shapes that clients send them, and as they are sent back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field

from gateway.errors import InvalidRequest, Unsupported
from gateway.realtime.sound import FORMATS, PCM, SoundFormat
from gateway.schemas.common import RequestSchema, validate

LOGPROBS = "item.input_audio_transcription.logprobs"
# OpenAI's names of what is one thing here, in the order in which they are sent back.
_GA_NAMES = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


class TurnDetection(RequestSchema):
    """When a turn ends by itself; times in milliseconds."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=30, le=10_000)


class SpeechSettings(RequestSchema):
    """What is transcribed, and by which model."""

    model: str | None = None
    language: str | None = Field(default=None, max_length=32)
    prompt: str | None = Field(default=None, max_length=10_000)


@dataclass(frozen=True)
class SessionConfig:
    """Without turn_detection the client commits."""

    form: SoundFormat = PCM
    speech: SpeechSettings = field(default_factory=SpeechSettings)
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    with_logprobs: bool = False

    def body(self, session_id: str) -> dict[str, Any]:
        detection = self.turn_detection.model_dump() if self.turn_detection else None
        format_body: dict[str, Any] = {"type": _GA_NAMES[self.form.name]}
        if self.form is PCM:
            format_body["rate"] = PCM.rate
        audio = {
            "format": format_body,
            "transcription": self.speech.model_dump(exclude_none=True),
            "turn_detection": detection,
            "noise_reduction": None,
        }
        include = [LOGPROBS] if self.with_logprobs else []
        kind = {"type": "transcription", "object": "realtime.transcription_session"}
        return {"id": session_id, **kind, "audio": {"input": audio}, "include": include}


def updated(config: SessionConfig, session: Any) -> SessionConfig:
    """The settings after `session.update` or the older `transcription_session.update`; what is absent stays.

    Raises InvalidRequest or Unsupported, naming the field.
    """
    if not isinstance(session, Mapping):
        raise InvalidRequest("session must be an object", "session")
    if session.get("type", "transcription") != "transcription":
        raise Unsupported("only sessions of type transcription are served", "session.type")
    given = _flat(session)
    if given.get("noise_reduction") is not None:
        raise Unsupported("noise_reduction is not supported for now.", "session.audio.input.noise_reduction")
    if "format" in given:
        config = replace(config, form=_sound_format(given["format"]))
    if given.get("transcription"):
        known = config.speech.model_dump(exclude_none=True)
        config = replace(config, speech=_part(SpeechSettings, {**known, **_mapping(given["transcription"])}))
    if "turn_detection" in given:
        wish = given["turn_detection"]
        detection = None if wish is None else _part(TurnDetection, _without_nulls(_mapping(wish)))
        config = replace(config, turn_detection=detection)
    if "include" in session:
        config = replace(config, with_logprobs=LOGPROBS in (session["include"] or []))
    return config


def _flat(session: Mapping[str, Any]) -> dict[str, Any]:
    """audio.input.* of the newer shape, input_audio_* of the older one."""
    inner = _mapping(_mapping(session.get("audio") or {}).get("input") or {})
    older = {
        name: session[key]
        for name, key in [
            ("format", "input_audio_format"),
            ("transcription", "input_audio_transcription"),
            ("noise_reduction", "input_audio_noise_reduction"),
            ("turn_detection", "turn_detection"),
        ]
        if key in session
    }
    return {**older, **inner}


def _sound_format(wish: Any) -> SoundFormat:
    name = wish.get("type") if isinstance(wish, Mapping) else wish
    if not isinstance(name, str) or name not in FORMATS:
        raise InvalidRequest(f"the format must be one of {', '.join(FORMATS)}", "session.audio.input.format")
    form = FORMATS[name]
    rate = wish.get("rate") if isinstance(wish, Mapping) else None
    if rate not in (None, form.rate):
        raise InvalidRequest(f"the rate of {name} must be {form.rate}", "session.audio.input.format.rate")
    return form


def _part(schema: type[Any], values: Mapping[str, Any]) -> Any:
    return validate(schema, values)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest("must be an object", "session")
    return value


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
