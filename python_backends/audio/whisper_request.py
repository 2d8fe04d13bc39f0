"""The tensors of a request to `whisper`, read and checked. Errors name the tensor at fault."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from python_backends.audio.features import Array
from python_backends.audio.speech_cutter import CutOptions
from python_backends.audio.windows import TEMPERATURES, DecodeOptions
from python_backends.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from python_backends.audio.whisper_model import WhisperModel

# Of a stream: a third of a window, so that its text comes about three times as soon.
_FIRST_PIECE_S = 10.0


class Inputs(Protocol):
    """The part of triton_io.Inputs that is used here."""

    def array(self, name: str) -> Array | None: ...
    def need(self, name: str) -> Array: ...
    def scalar(self, name: str, default: Any = None) -> Any: ...
    def text(self, name: str, default: str = "") -> str: ...
    def json(self, name: str) -> Any: ...


@dataclass(frozen=True)
class WhisperRequest:
    """Either `audio`, a file, to be cut as `cut` says; or `features` [mels, frames] and their duration in seconds.

    language is a token like <|en|>, or empty. `stream` sends segments as they are found.
    """

    audio: bytes
    features: Array | None
    duration: float
    language: str
    options: DecodeOptions
    cut: CutOptions
    stream: bool
    return_log_probs: bool


def read_request(inputs: Inputs, model: WhisperModel) -> WhisperRequest:
    """Raises InvalidInput or Unsupported."""
    audio, features = inputs.scalar("audio"), inputs.array("input_features")
    if (audio is None) == (features is None):
        raise InvalidInput("exactly one of audio and input_features is required", "audio")
    if features is not None:
        _check_features(features, model)
    stream = bool(inputs.scalar("stream", False))
    is_long = features is not None and features.shape[1] > model.window_frames
    return WhisperRequest(
        audio=audio or b"",
        features=features,
        duration=0.0 if features is None else _duration(inputs),
        language=model.language_token(inputs.text("language")),
        options=_decode_options(inputs, model, is_long),
        cut=_cut_options(inputs, model, stream),
        stream=stream,
        return_log_probs=bool(inputs.scalar("return_log_probs", False)),
    )


def _check_features(features: Array, model: WhisperModel) -> None:
    """[mels, frames], at least one window of them."""
    mels, window = model.num_mels, model.window_frames
    if features.shape[0] != mels or features.shape[1] < window:
        raise InvalidInput(f"must be [{mels}, {window} or more], got {list(features.shape)}", "input_features")


def _duration(inputs: Inputs) -> float:
    duration = float(inputs.need("duration").reshape(-1)[0])
    if not 0 <= duration < float("inf"):
        raise InvalidInput(f"must be a number of seconds, got {duration}", "duration")
    return duration


def _decode_options(inputs: Inputs, model: WhisperModel, is_long: bool) -> DecodeOptions:
    timestamps = is_long or bool(inputs.scalar("timestamps", False))
    if timestamps and model.timestamp_begin is None:
        field = "input_features" if is_long else "timestamps"
        raise Unsupported("this checkpoint has no timestamps, and so only one window", field)
    return DecodeOptions(
        task=model.task_name(inputs.text("task") or "transcribe"),
        prompt_ids=model.prompt_ids(inputs.text("prompt")),
        temperatures=_temperatures(inputs),
        timestamps=timestamps,
        word_timestamps=bool(inputs.scalar("word_timestamps", False)),
        condition_on_previous_text=bool(inputs.scalar("condition_on_previous_text", False)),
        seed=inputs.scalar("seed"),
    )


def _temperatures(inputs: Inputs) -> tuple[float, ...]:
    """All that were given, to be tried in turn; none stands for those of openai/whisper."""
    given = inputs.array("temperature")
    if given is None or not given.size:
        return TEMPERATURES
    for temperature in given.reshape(-1).tolist():
        if not 0 <= temperature <= 1:
            raise InvalidInput(f"must be between 0 and 1, got {temperature:g}", "temperature")
    return tuple(given.reshape(-1).tolist())


def _cut_options(inputs: Inputs, model: WhisperModel, stream: bool) -> CutOptions:
    """Of `chunking_strategy`: absent, `"auto"`, or an object of type server_vad. The names are those of its JSON."""
    wish: Any = inputs.json("chunking_strategy")
    usual = CutOptions(may_be_long=model.timestamp_begin is not None)
    if stream:
        usual = replace(usual, first_s=_FIRST_PIECE_S)
    if wish in (None, "auto"):
        return replace(usual, always=wish == "auto")
    if not isinstance(wish, dict) or wish.get("type") != "server_vad":
        raise InvalidInput('must be "auto" or an object of type "server_vad"', "chunking_strategy")
    known = {"threshold": "threshold", "silence_duration_ms": "silence_s", "prefix_padding_ms": "pad_s"}
    numbers: dict[str, Any] = {}
    for name, value in wish.items():
        if name == "type":
            continue
        if name not in known or isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"{name} must be a number and one of {', '.join(known)}", "chunking_strategy")
        numbers[known[name]] = value / 1000 if name.endswith("_ms") else value
    return replace(usual, always=True, **numbers)
