"""From the timestamp tokens of one Whisper window to segments, and to where the next window starts.

Plain Python over token ids; knows neither torch nor a tokenizer. The rules are those of Hugging Face's
WhisperGenerationMixin._retrieve_segment, which follow openai/whisper's transcribe.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FRAMES_PER_SECOND = 100
FRAMES_PER_TIMESTAMP = 2
SECONDS_PER_TIMESTAMP = FRAMES_PER_TIMESTAMP / FRAMES_PER_SECOND


@dataclass(frozen=True)
class Segment:
    """start and end in seconds of the whole recording; tokens with their timestamps.

    `place` is the index of the first token among those of the window.
    """

    start: float
    end: float
    tokens: tuple[int, ...]
    place: int = 0


@dataclass(frozen=True)
class SplitWindow:
    """Segments of a window, and how many frames of it they account for."""

    segments: tuple[Segment, ...]
    frames_used: int


def split_window(tokens: Sequence[int], timestamp_begin: int, first_frame: int, num_frames: int) -> SplitWindow:
    """Cut the tokens of a window (no prompt, no end-of-text) where two timestamps follow each other.

    timestamp_begin is the id of <|0.00|>; the window covers `num_frames` frames from `first_frame` on. Three cases:

        ... <|a|> text <|b|>            no speech after b: the window is used up
        ... <|a|> text <|b|><|c|> text  the last segment is unfinished: the next window starts at b
        no two timestamps in a row      one segment, the window is used up
    """
    start = first_frame / FRAMES_PER_SECOND
    is_timestamp = [token >= timestamp_begin for token in tokens]
    cuts = [place for place in range(1, len(tokens)) if is_timestamp[place - 1] and is_timestamp[place]]
    if not cuts:
        end = start + _last_time(tokens, timestamp_begin, num_frames)
        return SplitWindow((Segment(start, end, tuple(tokens)),), num_frames)
    ends_alone = is_timestamp[-2:] == [False, True]
    bounds = [0, *cuts, len(tokens)] if ends_alone else [0, *cuts]
    pieces = [tuple(tokens[first:last]) for first, last in pairwise(bounds)]
    times = [(piece[0] - timestamp_begin, piece[-1] - timestamp_begin) for piece in pieces]
    segments = tuple(
        Segment(start + first * SECONDS_PER_TIMESTAMP, start + last * SECONDS_PER_TIMESTAMP, piece, place)
        for piece, place, (first, last) in zip(pieces, bounds, times, strict=False)
    )
    used = num_frames if ends_alone else times[-1][1] * FRAMES_PER_TIMESTAMP
    # A window that ends where it began would be decoded for ever.
    return SplitWindow(segments, used or num_frames)


def _last_time(tokens: Sequence[int], timestamp_begin: int, num_frames: int) -> float:
    """Seconds from the window's start to its last timestamp after <|0.00|>, or to its end when there is none."""
    timestamps = [token - timestamp_begin for token in tokens if token >= timestamp_begin]
    return timestamps[-1] * SECONDS_PER_TIMESTAMP if any(timestamps[-1:]) else num_frames / FRAMES_PER_SECOND
