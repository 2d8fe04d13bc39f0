"""Windows decoded to the end, as the engine does it, without its thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from python_backends.audio.transcription import ModelFacts, Transcription
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.window_decoder import WindowDecoder
from python_backends.audio.windows import DecodeOptions, Window, WindowText

Array = np.ndarray[Any, Any]
PLAIN = DecodeOptions(task="transcribe")


def window(features: Array, language: str = "<|en|>", options: DecodeOptions = PLAIN) -> Window:
    return Window(features, features.shape[1], language, options.prompt_ids, options)


def decode(decoder: WindowDecoder, windows: list[Window]) -> list[WindowText]:
    """The texts in order; windows enter as slots become free."""
    waiting, found = list(windows), {}
    while waiting or decoder.running:
        entering, waiting = waiting[: decoder.num_free], waiting[decoder.num_free :]
        if entering:
            decoder.start(entering)
        for running, text in decoder.step():
            assert isinstance(text, WindowText), text
            found[id(running.window)] = text
    return [found[id(each)] for each in windows]


def decode_all(decoder: WindowDecoder, job: Transcription) -> None:
    """Bring a transcription to its end."""
    owned = {}
    while not job.done:
        while decoder.num_free and (entering := job.window()):
            (running,) = decoder.start([entering])
            owned[id(running)] = entering
        for running, text in decoder.step() if decoder.running else []:
            assert isinstance(text, WindowText), text
            job.add(owned.pop(id(running)), text)


def facts(model: WhisperModel) -> ModelFacts:
    return ModelFacts(model.window_frames, model.timestamp_begin, model.previous, model.prompt_room)
