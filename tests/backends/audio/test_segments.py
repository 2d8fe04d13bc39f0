"""Timestamps cut a window into segments and say where the next one starts; the expectations are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from python_backends.audio.segments import split_window
from python_backends.audio.transcription import Recording, Transcription

BEGIN = 1000


def at(seconds: float) -> int:
    return BEGIN + round(seconds * 50)


def test_no_timestamps_make_one_segment_of_the_window() -> None:
    split = split_window([1, 2, 3], BEGIN, first_frame=500, num_frames=1000)
    assert [(each.start, each.end, each.tokens) for each in split.segments] == [(5.0, 15.0, (1, 2, 3))]
    assert split.frames_used == 1000


def test_a_lonely_end_uses_up_the_window() -> None:
    tokens = [at(0), 1, at(2), at(2.5), 2, at(4)]
    split = split_window(tokens, BEGIN, first_frame=3000, num_frames=3000)
    assert [(each.start, each.end) for each in split.segments] == [(30.0, 32.0), (32.5, 34.0)]
    assert [each.tokens for each in split.segments] == [(at(0), 1, at(2)), (at(2.5), 2, at(4))]
    assert split.frames_used == 3000


@pytest.mark.parametrize("rest", [[7, 8], []])
def test_an_unfinished_segment_is_left_to_the_next_window(rest: list[int]) -> None:
    split = split_window([at(0), 1, at(2), at(2), *rest], BEGIN, first_frame=0, num_frames=3000)
    assert [(each.start, each.end, each.tokens) for each in split.segments] == [(0.0, 2.0, (at(0), 1, at(2)))]
    assert split.frames_used == 200


def test_one_timestamp_at_the_end_closes_the_only_segment() -> None:
    split = split_window([at(0), 1, 2, at(3)], BEGIN, first_frame=0, num_frames=3000)
    assert [(each.start, each.end) for each in split.segments] == [(0.0, 3.0)]


def test_a_window_that_goes_nowhere_is_used_up() -> None:
    assert split_window([at(0), at(0)], BEGIN, first_frame=0, num_frames=3000).frames_used == 3000


def recording(seconds: float) -> Recording:
    frames = max(3000, round(seconds * 100))
    return Recording(np.arange(2 * frames, dtype=np.float32).reshape(2, frames), seconds)


def test_windows_follow_the_timestamps() -> None:
    job = Transcription(recording(45), "", 3000, BEGIN)
    assert job.window()[0, 0] == 0
    job.add((at(0), 1, at(28), at(28), 2), "<|en|>", True)
    assert (job.window()[0, 0], job.window().shape[1], job.done) == (2800, 1700, False)
    job.add((at(0), 3, at(17)), "<|de|>", True)
    assert job.done
    assert [(each.start, each.end) for each in job.segments] == [(0.0, 28.0), (28.0, 45.0)]
    assert job.language == "<|en|>", "the first window decides"
    assert (job.num_output_tokens, job.truncated) == (8, False)


def test_padding_is_not_transcribed() -> None:
    job = Transcription(recording(5), "<|en|>", 3000, BEGIN)
    job.add((at(0), 1, at(5), at(5)), "<|en|>", True)
    assert job.done
    assert job.segments[0].end == 5.0


def test_times_end_with_the_recording() -> None:
    job = Transcription(recording(5), "", 3000, None)
    job.add((1, 2), "", False)
    assert job.done
    assert [(each.start, each.end) for each in job.segments] == [(0.0, 5.0)]
    assert job.truncated


def test_silence_moves_on_without_a_segment() -> None:
    job = Transcription(recording(45), "", 3000, BEGIN)
    job.add((), "<|en|>", True)
    assert (job.segments, job.done) == ([], False)
    job.add((), "<|en|>", True)
    assert job.done
    assert repr(job) == "<Transcription 4500/4500 frames, 0 segments>"


def test_a_model_that_hardly_moves_is_made_to() -> None:
    job = Transcription(recording(60), "", 3000, BEGIN)
    num_windows = 0
    while not job.done:
        job.add((at(0), 1, at(0.02), at(0.02), 2), "<|en|>", True)
        num_windows += 1
    assert num_windows == 7 + 2


def test_no_sound_at_all_is_one_window() -> None:
    job = Transcription(recording(0), "", 3000, None)
    assert not job.done
    assert job.window().shape == (2, 3000)
