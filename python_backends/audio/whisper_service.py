"""The `whisper` entry: log-mel features in, text out (decoupled). Its own thread decodes; `execute` only queues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from python_backends.audio.transcription import Recording, Transcription
from python_backends.audio.window_queue import StepQueue
from python_backends.errors import InvalidInput, Unsupported
from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_quiet
from python_backends.triton_io import (
    Array,
    Inputs,
    Responder,
    entry_folder,
    entry_parameters,
    load_errors_named,
    text_array,
)

if TYPE_CHECKING:
    from python_backends.audio.whisper_model import DecodeOptions, WhisperModel


@dataclass(frozen=True)
class WhisperOptions:
    """Parameters of the `whisper` entry, see docs/contracts.md."""

    model: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: int = 8
    max_waiting: int = 64

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"parameter {name!r} must be at least 1, got {getattr(self, name)}")


@dataclass
class WhisperJob:
    """A request in the queue: its recording, how to decode it, and where the reply goes."""

    recording: Recording
    transcription: Transcription
    key: DecodeOptions
    responder: Responder
    model: WhisperModel
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or self.transcription.done

    def is_cancelled(self) -> bool:
        return self.responder.is_cancelled()

    def fail(self, error: BaseException) -> None:
        self.error = error

    def finish(self) -> None:
        if self.error is not None:
            self.responder.fail(self.error)
        elif self.transcription.done:
            self.responder.send(self._outputs(), final=True)
        else:
            self.responder.close()

    def _outputs(self) -> dict[str, Array]:
        found = self.transcription
        segments = [
            {
                "id": number,
                "start": round(each.start, 2),
                "end": round(each.end, 2),
                "text": self.model.text(each.tokens),
            }
            for number, each in enumerate(found.segments)
        ]
        language = found.language or "<|en|>"
        return {
            "text": text_array(self.model.text(found.tokens)),
            "audio_language": text_array(language.removeprefix("<|").removesuffix("|>")),
            "segments": text_array(json.dumps(segments)),
            "duration": np.array([self.recording.duration], np.float32),
            "num_output_tokens": np.array([found.num_output_tokens], np.int32),
            "finish_reason": text_array("length" if found.truncated else "stop"),
        }


class WhisperService:
    """Triton's Python model for `whisper`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = read_options(WhisperOptions, entry_parameters(args), folder)
            # Triton also loads this file in a short-lived process that only asks for the configuration.
            from python_backends.audio.whisper_model import WhisperModel

            keep_quiet()
            self._model = WhisperModel(checkpoint_path(folder, options.model), options.dtype)
            self._queue: StepQueue[WhisperJob] = StepQueue(self._decode, options.max_batch, options.max_waiting)

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests and return at once; the replies come from the queue's thread."""
        for request in requests:
            responder = Responder(request)
            try:
                self._queue.submit(self._read(Inputs(request), responder))
            except Exception as error:  # becomes the error reply to this request
                responder.fail(error)

    def finalize(self) -> None:
        self._queue.close()

    def _decode(self, jobs: Sequence[WhisperJob]) -> None:
        from python_backends.audio.whisper_model import Window

        windows = [Window(job.transcription.window(), job.transcription.language) for job in jobs]
        for job, found in zip(jobs, self._model.decode(windows, jobs[0].key), strict=True):
            job.transcription.add(found.tokens, found.language, found.finished)

    def _read(self, inputs: Inputs, responder: Responder) -> WhisperJob:
        recording = Recording(self._features(inputs), _duration(inputs))
        is_long = recording.features.shape[1] > self._model.window_frames
        key = self._decode_options(inputs, is_long)
        language = self._model.language_token(inputs.text("language"))
        begin = self._model.timestamp_begin if key.timestamps else None
        transcription = Transcription(recording, language, self._model.window_frames, begin)
        return WhisperJob(recording, transcription, key, responder, self._model)

    def _features(self, inputs: Inputs) -> Array:
        """[mels, frames], at least one window of them."""
        features = inputs.need("input_features")
        mels, window = self._model.num_mels, self._model.window_frames
        if features.shape[0] != mels or features.shape[1] < window:
            raise InvalidInput(f"must be [{mels}, {window} or more], got {list(features.shape)}", "input_features")
        return features

    def _decode_options(self, inputs: Inputs, is_long: bool) -> DecodeOptions:
        from python_backends.audio.whisper_model import DecodeOptions

        timestamps = is_long or bool(inputs.scalar("timestamps", False))
        if timestamps and self._model.timestamp_begin is None:
            field = "input_features" if is_long else "timestamps"
            raise Unsupported("this checkpoint has no timestamps, and so only one window", field)
        return DecodeOptions(
            task=self._model.task_name(inputs.text("task") or "transcribe"),
            prompt_ids=self._model.prompt_ids(inputs.text("prompt")),
            temperature=_temperature(inputs),
            timestamps=timestamps,
        )


def _duration(inputs: Inputs) -> float:
    duration = float(inputs.need("duration").reshape(-1)[0])
    if not 0 <= duration < float("inf"):
        raise InvalidInput(f"must be a number of seconds, got {duration}", "duration")
    return duration


def _temperature(inputs: Inputs) -> float:
    temperature = float(inputs.scalar("temperature", 0.0))
    if not 0 <= temperature <= 1:
        raise InvalidInput(f"must be between 0 and 1, got {temperature}", "temperature")
    return temperature
