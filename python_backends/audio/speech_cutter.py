"""Cuts a stream of samples into pieces at silences, and leaves long silences out.

Knows WebRTC's voice activity detection. Refuses to know files, models and processes. Words are never cut: a piece ends
in a pause, and where there is no pause it goes on for minutes, and the model's own timestamps find the seams inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import webrtcvad

from python_backends.audio.decode import SAMPLE_RATE
from python_backends.errors import InvalidInput

Array = np.ndarray[Any, Any]

_FRAME_S = 0.03
FRAME = round(SAMPLE_RATE * _FRAME_S)
# A pause of this length is left out; a shorter one stays, because Whisper reads sentence ends from pauses.
_LONG_PAUSE_S = 3.0
# Where nobody pauses (music, noise) a piece ends at its quietest moment after this time.
_LONGEST_S = 300.0
_QUIET_SEARCH_S = 5.0
# Amplitude of the loudest sample; what stays below is taken for noise.
_QUIETEST_VOICE = 0.02


@dataclass(frozen=True)
class CutOptions:
    """How to cut. always: also what is no longer than a piece, which is left whole otherwise.

    threshold, 0 to 1, is how sure the detection must be of a voice; silence_s is the shortest pause to cut in; pad_s is
    kept before and after speech. Without `may_be_long` (a model without timestamps) no piece is longer than a window.
    Where pauses allow it no piece is longer than `chunk_s`, nor than a window, and the first no longer than `first_s`.
    """

    always: bool = False
    threshold: float = 0.5
    silence_s: float = 0.3
    pad_s: float = 0.5
    may_be_long: bool = True
    chunk_s: float = float("inf")
    first_s: float = float("inf")

    def __post_init__(self) -> None:
        for name, low, high in (("threshold", 0, 1), ("silence_s", 0, 10), ("pad_s", 0, 10)):
            if not low <= getattr(self, name) <= high:
                raise InvalidInput(
                    f"{name} must be from {low} to {high}, got {getattr(self, name)}", "chunking_strategy"
                )


@dataclass(frozen=True)
class Piece:
    """samples float32 [n] at 16 kHz that begin `start` seconds into the recording."""

    start: float
    samples: Array


class SpeechCutter:
    """`push` takes blocks and gives the pieces that are complete; `finish` gives the rest."""

    def __init__(self, window_samples: int, options: CutOptions) -> None:
        self._window = window_samples // FRAME
        self._chunk = round(min(options.chunk_s / _FRAME_S, self._window))
        self._limit = round(min(options.first_s / _FRAME_S, self._chunk))
        self._options = options
        self._vad = webrtcvad.Vad(int(3 * options.threshold))
        self._cutting = options.always
        self._samples = np.empty(0, np.float32)
        self._pending: list[Array] = []
        self._num_pending = 0
        self._voiced = np.empty(0, bool)
        self._loudest = _QUIETEST_VOICE
        self._start = 0

    def __repr__(self) -> str:
        return f"<SpeechCutter {(self._start + len(self._samples)) / SAMPLE_RATE:.1f} s taken in>"

    def push(self, block: Array) -> Iterator[Piece]:
        self._pending.append(block)
        self._num_pending += len(block)
        # Whole seconds at a time: blocks are as short as the file's packets.
        if self._num_pending < SAMPLE_RATE:
            return
        self._take_pending()
        self._cutting |= len(self._samples) > self._chunk * FRAME
        while self._cutting and (piece := self._cut(last=False)):
            yield piece

    def finish(self) -> Iterator[Piece]:
        self._take_pending()
        self._cutting |= len(self._samples) > self._chunk * FRAME
        if not self._cutting:
            yield Piece(0.0, self._samples)
            return
        while piece := self._cut(last=True):
            yield piece

    def _take_pending(self) -> None:
        self._samples = np.concatenate([self._samples, *self._pending])
        self._pending, self._num_pending = [], 0

    def _cut(self, last: bool) -> Piece | None:
        """The next piece, if it is known where it ends; at the `last` call everything is known."""
        self._detect(last)
        self._drop(self._leading_pause())
        speech = np.flatnonzero(self._voiced)
        if not len(speech):
            return None
        end, next_start = self._end_of_piece(last, int(speech[-1]) + 1)
        if not end:
            return None
        piece = Piece(self._start / SAMPLE_RATE, self._samples[: end * FRAME].copy())
        self._drop(next_start)
        self._limit = self._chunk
        return piece

    def _end_of_piece(self, last: bool, speech_end: int) -> tuple[int, int]:
        """Frames: where the piece ends and where the next may begin; zeros while that is unknown."""
        size, pad = len(self._voiced), self._frames(self._options.pad_s)
        pauses = self._pauses(speech_end)
        for first, after in pauses:
            if after - first >= self._frames(_LONG_PAUSE_S) and first <= self._limit:
                return min(first + pad, after), max(first + pad, after - pad)
        end = min(size, speech_end + pad)
        if size <= self._limit or (last and end <= self._limit):
            return (end, size) if last else (0, 0)
        # The last pause that fits; where none does the first one after, if that is not too late.
        inside = [pause for pause in pauses if sum(pause) // 2 <= self._limit]
        others = [pause for pause in pauses if self._options.may_be_long or sum(pause) // 2 <= self._window]
        cuts = [self._quietest(*pause) for pause in inside[-1:] or others[:1]]
        longest = self._frames(_LONGEST_S) if self._options.may_be_long else self._window
        if cuts or (last and size <= longest):
            return (cuts[0], cuts[0]) if cuts else (end, size)
        quietest = self._quietest(longest - self._frames(_QUIET_SEARCH_S), longest) if size > longest else 0
        return quietest, quietest

    def _pauses(self, speech_end: int) -> list[tuple[int, int]]:
        """First frame of each pause that is long enough and the frame after it; the last one may go on."""
        edges = np.flatnonzero(np.diff(self._voiced[:speech_end].astype(np.int8))) + 1
        # Voice and pause take turns, and the last speech ends at speech_end.
        starts = [*(int(edge) for edge in edges if not self._voiced[edge]), speech_end]
        ends = [*(int(edge) for edge in edges if self._voiced[edge] and edge > starts[0]), len(self._voiced)]
        shortest = max(1, self._frames(self._options.silence_s))
        return [pair for pair in zip(starts, ends, strict=True) if pair[1] - pair[0] >= shortest]

    def _leading_pause(self) -> int:
        """Frames before the padding of the first speech."""
        speech = np.flatnonzero(self._voiced)
        first = int(speech[0]) if len(speech) else len(self._voiced)
        return max(0, first - self._frames(self._options.pad_s))

    def _quietest(self, first: int, after: int) -> int:
        """A frame between two others with no voice near it, not even the hiss of a consonant; else the quietest."""
        frames = self._samples[first * FRAME : after * FRAME].reshape(-1, FRAME)
        energy = np.convolve(np.square(frames).mean(axis=1), np.ones(5), mode="same")
        quiet = np.flatnonzero(energy <= 2 * energy.min() + 1e-9)
        return max(1, first + int(quiet[np.abs(quiet - len(frames) // 2).argmin()]))

    def _detect(self, last: bool) -> None:
        """Voice or not, for each new frame; single frames that differ from their neighbours are noise."""
        if last and len(self._samples) % FRAME:
            self._samples = np.pad(self._samples, (0, -len(self._samples) % FRAME))
        known = len(self._voiced)
        frames = self._samples[known * FRAME : len(self._samples) // FRAME * FRAME].reshape(-1, FRAME)
        # The detection goes by loudness too, and must not lose somebody who speaks far from the microphone.
        self._loudest = max(self._loudest, float(np.abs(frames).max(initial=0)))
        sound = (frames * (32767 / self._loudest)).astype("<i2")
        found = [self._vad.is_speech(frame.tobytes(), SAMPLE_RATE) for frame in sound]
        if found:
            smooth = np.convolve(np.pad(np.array(found, float), 2, mode="edge"), np.ones(5), mode="valid") >= 3
            self._voiced = np.concatenate([self._voiced, smooth])

    def _drop(self, frames: int) -> None:
        self._samples = self._samples[frames * FRAME :]
        self._voiced = self._voiced[frames:]
        self._start += frames * FRAME

    @staticmethod
    def _frames(seconds: float) -> int:
        return round(seconds / _FRAME_S)
