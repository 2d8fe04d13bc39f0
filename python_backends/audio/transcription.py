"""A recording on its way to text: which window comes next, and what the windows so far have said.

Plain Python over arrays and token ids; refuses to know torch, queues and Triton.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from python_backends.audio.segments import FRAMES_PER_SECOND, Segment, split_window
from python_backends.audio.windows import DecodeOptions, Window, WindowText, Word

Array = np.ndarray[Any, Any]

# Windows overlap where a segment was left unfinished; trained models take about one and a half times the fewest.
_WINDOWS_PER_WINDOW = 4
# Text drawn at a higher temperature than this is no good context for what follows (openai/whisper's transcribe.py).
_WARMEST_CONTEXT = 0.5


@dataclass(frozen=True)
class Region:
    """A part of a recording that is decoded by itself: features [mels, frames], at least one window of them.

    start and duration in seconds, without padding.
    """

    features: Array
    duration: float
    start: float = 0.0

    @property
    def num_frames(self) -> int:
        """Frames with sound in them; at least one, so that every region has a window."""
        return max(1, min(self.features.shape[1], round(self.duration * FRAMES_PER_SECOND)))

    @property
    def first_frame(self) -> int:
        return round(self.start * FRAMES_PER_SECOND)


class Regions(Protocol):
    """Where regions come from, in order."""

    def take(self) -> Region | None:
        """The next region; None when it is not there yet, or when there is none. Raises BackendError."""

    @property
    def ended(self) -> bool: ...

    @property
    def duration(self) -> float:
        """Seconds of the whole recording; those known so far until it has ended."""


@dataclass(frozen=True)
class ModelFacts:
    """What of a checkpoint matters here; previous is the id of <|startofprev|>, and room the most tokens after it."""

    window_frames: int
    timestamp_begin: int | None
    previous: int | None = None
    room: int = 0


@dataclass(frozen=True)
class Spoken:
    """A segment, the window that it was heard in, and its words; times are those of the recording."""

    segment: Segment
    seek: int
    window: WindowText
    words: tuple[Word, ...]

    @property
    def logprobs(self) -> tuple[float, ...]:
        return self.window.logprobs[self.segment.place : self.segment.place + len(self.segment.tokens)]


class Transcription:
    """Hands out windows and takes their texts; what is known from the beginning without a gap can be taken away.

    Regions are independent of each other, so windows of several may be decoded at the same time: up to `max_open` of
    them, or one where each is told the text before it, or where the language is still to be heard. With `first_alone`
    also until the first text is there: decoded together, they end together.
    """

    def __init__(
        self,
        regions: Regions,
        language: str,
        options: DecodeOptions,
        facts: ModelFacts,
        max_open: int = 1,
        first_alone: bool = False,
    ) -> None:
        self._regions = regions
        self._options = options
        self._facts = facts
        self._max_open = 1 if options.condition_on_previous_text else max_open
        self._alone = first_alone
        self._open: deque[_OpenRegion] = deque()
        self._deciding: dict[int, _OpenRegion] = {}
        self._context: list[int] = list(options.prompt_ids[1:])
        self.language = language
        self.truncated = False
        self.num_prompt_tokens = 0

    def __repr__(self) -> str:
        return f"<Transcription {len(self._deciding)} windows of {len(self._open)} regions being decoded>"

    @property
    def duration(self) -> float:
        return self._regions.duration

    @property
    def done(self) -> bool:
        return self._regions.ended and all(region.done for region in self._open)

    def window(self) -> Window | None:
        """The window to decode next, if one can be decoded now. Raises BackendError."""
        if self._deciding and (self._alone or not self.language or self._options.condition_on_previous_text):
            return None
        undone = [each for each in self._open if not each.done]
        region = next((each for each in undone if not each.busy), None)
        if region is None and len(undone) < self._max_open and (taken := self._regions.take()):
            region = _OpenRegion(taken, self._facts)
            self._open.append(region)
        if region is None:
            return None
        region.busy = True
        # Without timestamps nothing would say where the next window of a long region begins.
        options = replace(self._options, timestamps=True) if region.is_long else self._options
        window = Window(region.features(), region.num_frames, self.language, self._prompt(), options, region.frame)
        self.num_prompt_tokens += len(window.prompt_ids)
        self._deciding[id(window)] = region
        return window

    def add(self, window: Window, text: WindowText) -> None:
        """Take what was said in that window, and move on."""
        region = self._deciding.pop(id(window))
        region.busy = self._alone = False
        self.language = self.language or text.language
        self.truncated |= not text.finished
        found = region.add(text)
        if self._options.condition_on_previous_text:
            said = [token for spoken in found for token in spoken.segment.tokens]
            self._context = [*self._context, *said] if text.temperature <= _WARMEST_CONTEXT else []

    def read(self) -> list[Spoken]:
        """Segments that nobody has read and that no earlier one can come before."""
        found: list[Spoken] = []
        while self._open:
            found += self._open[0].unread
            self._open[0].unread = []
            if not self._open[0].done:
                break
            self._open.popleft()
        return found

    def _prompt(self) -> tuple[int, ...]:
        if not self._options.condition_on_previous_text:
            return self._options.prompt_ids
        if not self._context or self._facts.previous is None:
            return ()
        return (self._facts.previous, *self._context[-self._facts.room :])


class _OpenRegion:
    """Windows of a region, one after the other.

    With timestamps a window starts where the last whole segment before it ended. Without, there is one window. A model
    that hardly moves forward is made to after four times the fewest windows.
    """

    def __init__(self, region: Region, facts: ModelFacts) -> None:
        self._region = region
        self._facts = facts
        self._seek = 0
        self._windows_left = _WINDOWS_PER_WINDOW * -(-region.num_frames // facts.window_frames)
        self.busy = False
        self.unread: list[Spoken] = []

    @property
    def done(self) -> bool:
        return self._seek >= self._region.num_frames

    @property
    def is_long(self) -> bool:
        return self._region.num_frames > self._facts.window_frames

    @property
    def frame(self) -> int:
        """The first frame of the next window in the recording."""
        return self._region.first_frame + self._seek

    @property
    def num_frames(self) -> int:
        """Frames with sound in the next window."""
        return min(self._facts.window_frames, self._region.num_frames - self._seek)

    def features(self) -> Array:
        return self._region.features[:, self._seek : self._seek + self._facts.window_frames]

    def add(self, text: WindowText) -> list[Spoken]:
        """The segments of the window, which now counts as done as far as they go."""
        frame, window_frames = self.frame, self.features().shape[1]
        self._windows_left -= 1
        if not text.tokens:
            self._seek += window_frames
            return []
        # Without timestamps no token reaches the threshold, and the window becomes one segment.
        known = self._facts.timestamp_begin
        split = split_window(text.tokens, max(text.tokens) + 1 if known is None else known, frame, window_frames)
        found = [self._spoken(segment, frame, text) for segment in split.segments]
        self.unread += found
        self._seek += split.frames_used if self._windows_left > 0 else window_frames
        return found

    def _spoken(self, segment: Segment, frame: int, text: WindowText) -> Spoken:
        """Times of the recording; the words lie inside their segment."""
        offset = frame / FRAMES_PER_SECOND
        start, end = self._clipped(segment.start), self._clipped(segment.end)
        places = range(segment.place, segment.place + len(segment.tokens))
        heard = [word for word in text.words if word.place in places]
        begin = self._facts.timestamp_begin
        if heard and (begin is None or segment.tokens[-1] < begin):
            # The model has not said when this segment ends.
            end = max(end, self._clipped(offset + heard[-1].end))

        def inside(moment: float) -> float:
            return min(max(offset + moment, start), end)

        words = tuple(replace(word, start=inside(word.start), end=inside(word.end)) for word in heard)
        return Spoken(Segment(start, end, segment.tokens, segment.place), frame, text, words)

    def _clipped(self, moment: float) -> float:
        """Padding after the region is not part of it."""
        return min(moment, self._region.start + self._region.duration)
