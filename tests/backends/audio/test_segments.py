"""Timestamps cut a window into segments and say where the next one starts; the expectations are worked out by hand."""

from __future__ import annotations

import pytest

from python_backends.audio.segments import split_window

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
    assert [each.place for each in split.segments] == [0, 3]
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
