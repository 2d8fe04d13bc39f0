"""When a person begins and stops to speak: WebRTC's voice activity detection over a stream of samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import webrtcvad

from gateway.realtime.sound import DETECTION_RATE

Array = np.ndarray[Any, Any]

FRAME_MS = 30
_FRAME = DETECTION_RATE * FRAME_MS // 1000
# Shorter than this is a click, whose end the detection hears too late.
_SHORTEST_SPEECH_MS = 150


class Turn(NamedTuple):
    """`speaking` began or ended at `at_ms` of the session."""

    speaking: bool
    at_ms: int


class TurnDetector:
    """threshold, 0 to 1, is how sure the detection must be; a turn ends after `silence_ms` without a voice."""

    def __init__(self, threshold: float, silence_ms: int, start_ms: int) -> None:
        self._vad = webrtcvad.Vad(round(3 * threshold))
        self._silence_ms = silence_ms
        self._rest = np.empty(0, "<i2")
        self._now_ms = start_ms
        # How long it has been as it is not: voice while nobody speaks, silence while somebody does.
        self._other_ms = 0
        self.speaking = False

    def __repr__(self) -> str:
        return f"<TurnDetector {'speech' if self.speaking else 'silence'} at {self._now_ms} ms>"

    def feed(self, samples: Array) -> list[Turn]:
        """Samples int16 at DETECTION_RATE, in order; the turns that they make."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // _FRAME * _FRAME
        self._rest = samples[whole:]
        turns = (self._step(frame.tobytes()) for frame in samples[:whole].reshape(-1, _FRAME))
        return [turn for turn in turns if turn is not None]

    def _step(self, frame: bytes) -> Turn | None:
        self._now_ms += FRAME_MS
        voice = self._vad.is_speech(frame, DETECTION_RATE)
        self._other_ms = self._other_ms + FRAME_MS if voice != self.speaking else 0
        if self._other_ms < (self._silence_ms if self.speaking else _SHORTEST_SPEECH_MS):
            return None
        began_ms = self._now_ms - self._other_ms
        self.speaking, self._other_ms = not self.speaking, 0
        # A beginning is known a little later; an end is said when it is sure.
        return Turn(self.speaking, began_ms if self.speaking else self._now_ms)
