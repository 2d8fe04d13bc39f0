"""One recording on its way to text: which window comes next, and what the windows so far have said.

Plain Python over arrays and token ids; refuses to know torch, queues and Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_backends.audio.segments import FRAMES_PER_SECOND, Segment, split_window

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Recording:
    """features [mels, frames] as audio_frontend makes them; duration in seconds, without padding."""

    features: Array
    duration: float

    @property
    def num_frames(self) -> int:
        """Frames with sound in them; at least one, so that every recording has a window."""
        return max(1, min(self.features.shape[1], round(self.duration * FRAMES_PER_SECOND)))


# Windows overlap where a segment was left unfinished; trained models take about one and a half times the fewest.
_WINDOWS_PER_WINDOW = 4


class Transcription:
    """Windows of a recording, one after the other.

    With timestamps a window starts where the last whole segment before it ended. Without, there is one window, so the
    recording may not be longer. A model that hardly moves forward is made to after four times the fewest windows.
    """

    def __init__(self, recording: Recording, language: str, window_frames: int, timestamp_begin: int | None) -> None:
        self._recording = recording
        self._window_frames = window_frames
        self._timestamp_begin = timestamp_begin
        self._seek = 0
        self._windows_left = _WINDOWS_PER_WINDOW * -(-recording.num_frames // window_frames)
        self.language = language
        self.segments: list[Segment] = []
        self.num_output_tokens = 0
        self.truncated = False

    def __repr__(self) -> str:
        return f"<Transcription {self._seek}/{self._recording.num_frames} frames, {len(self.segments)} segments>"

    @property
    def done(self) -> bool:
        return self._seek >= self._recording.num_frames

    @property
    def tokens(self) -> list[int]:
        return [token for segment in self.segments for token in segment.tokens]

    def window(self) -> Array:
        """Features [mels, frames] of the window to decode next."""
        return self._recording.features[:, self._seek : self._seek + self._window_frames]

    def add(self, tokens: tuple[int, ...], language: str, finished: bool) -> None:
        """Take what was said in that window, and move on."""
        self.language = self.language or language
        self.num_output_tokens += len(tokens)
        self.truncated |= not finished
        self._windows_left -= 1
        num_frames = min(self._window_frames, self._recording.features.shape[1] - self._seek)
        if not tokens:
            self._seek += num_frames
            return
        # Without timestamps no token reaches the threshold, and the window becomes one segment.
        begin = max(tokens) + 1 if self._timestamp_begin is None else self._timestamp_begin
        split = split_window(tokens, begin, self._seek, num_frames)
        self.segments += [self._clipped(segment) for segment in split.segments]
        self._seek += split.frames_used if self._windows_left > 0 else num_frames

    def _clipped(self, segment: Segment) -> Segment:
        """Padding after the recording is not part of it."""
        duration = self._recording.duration
        return Segment(min(segment.start, duration), min(segment.end, duration), segment.tokens)
