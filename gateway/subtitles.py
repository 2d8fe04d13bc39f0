"""Segments as subtitles: SubRip (srt) and WebVTT (vtt). A few lines each, and no library keeps them better.

Knows times and texts; knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Segments = Sequence[Mapping[str, Any]]


def srt(segments: Segments) -> str:
    """Numbered cues; `start` and `end` are in seconds."""
    cues = [f"{number}\n{times}\n{text}\n" for number, (times, text) in enumerate(_cues(segments, ","), 1)]
    return "\n".join(cues)


def vtt(segments: Segments) -> str:
    """A WebVTT file; what would be markup there is escaped."""
    cues = [f"{times}\n{text.replace('&', '&amp;').replace('<', '&lt;')}\n" for times, text in _cues(segments, ".")]
    return "\n".join(["WEBVTT\n", *cues])


def _cues(segments: Segments, point: str) -> Iterator[tuple[str, str]]:
    for segment in segments:
        # An arrow in the text would begin a new cue, and so would an empty line.
        text = " ".join(segment["text"].split()).replace("-->", "->")
        if text:
            start = round(segment["start"] * 1000)
            # A cue that takes no time is shown by no player.
            end = max(round(segment["end"] * 1000), start + 1)
            yield f"{_clock(start, point)} --> {_clock(end, point)}", text


def _clock(milliseconds: int, point: str) -> str:
    """hh:mm:ss and milliseconds."""
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{thousandths:03d}"
