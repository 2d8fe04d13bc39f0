"""Pieces end in pauses and hold every word; long silence is left out; nothing grows without bound."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from python_backends.audio.decode import SAMPLE_RATE, decode_audio
from python_backends.audio.speech_cutter import CutOptions, Piece, SpeechCutter
from python_backends.errors import InvalidInput
from tests.backends.audio.sound import voice
from tests.speech import DIGITS, say

Array = np.ndarray[Any, Any]
WINDOW = 30 * SAMPLE_RATE


def quiet(seconds: float) -> Array:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def cut(sound: Array, options: CutOptions | None = None, block: int = 1000) -> list[Piece]:
    cutter = SpeechCutter(WINDOW, options or CutOptions())
    blocks = [sound[start : start + block] for start in range(0, len(sound), block)]
    return [*(piece for each in blocks for piece in cutter.push(each)), *cutter.finish()]


def spans(pieces: list[Piece]) -> list[tuple[float, float]]:
    """Start and end of each piece in seconds."""
    return [(piece.start, piece.start + len(piece.samples) / SAMPLE_RATE) for piece in pieces]


def test_what_fits_into_a_window_is_left_whole() -> None:
    for sound in (quiet(0), quiet(3), np.concatenate([quiet(5), voice(2), quiet(23)])):
        (piece,) = cut(sound)
        assert piece.start == 0
        assert np.array_equal(piece.samples, sound)


def test_pieces_end_in_pauses() -> None:
    sound = np.concatenate([part for number in range(10) for part in (voice(7.5, number), quiet(0.6))])
    found = spans(cut(sound))
    assert all(end - start <= 30.1 for start, end in found)
    pauses = [(number * 8.1 + 7.5, number * 8.1 + 8.1) for number in range(10)]
    for start, end in found:
        assert any(first <= end <= after + 0.01 for first, after in pauses), (end, "is in no pause")
        assert start == 0 or any(first <= start <= after for first, after in pauses)
    assert all(abs(end - start) < 0.05 for (_, end), (start, _) in pairwise(found)), "no gap"
    assert len(found) == 4, "as few as windows of 30 s allow: three sentences each"


@pytest.mark.parametrize("block", [333, 16_000, 10**9])
def test_long_silence_is_left_out(block: int) -> None:
    sound = np.concatenate([quiet(20), voice(3), quiet(60), voice(4), quiet(600)])
    found = spans(cut(sound, block=block))
    assert found == [pytest.approx((20, 23), abs=0.8), pytest.approx((83, 87), abs=0.8)]
    for (start, end), (first, last) in zip(found, [(20, 23), (83, 87)], strict=True):
        assert start < first - 0.3 and end > last + 0.3, "with some room around"


def test_silence_for_ever_is_not_kept() -> None:
    cutter = SpeechCutter(WINDOW, CutOptions())
    for _ in range(40):
        assert list(cutter.push(quiet(10))) == []
    assert len(cutter._samples) <= 31 * SAMPLE_RATE
    assert repr(cutter) == "<SpeechCutter 400.0 s taken in>"
    assert list(cutter.finish()) == []


def test_who_never_pauses_is_cut_after_minutes_at_a_quiet_moment() -> None:
    found = spans(cut(voice(400)))
    assert len(found) == 2
    assert 294 <= found[0][1] <= 300
    assert found[1][0] == pytest.approx(found[0][1], abs=0.05)


def test_a_model_without_timestamps_gets_nothing_longer_than_a_window() -> None:
    found = spans(cut(voice(70), CutOptions(may_be_long=False)))
    assert all(end - start <= 30.01 for start, end in found)
    assert found[-1][1] == pytest.approx(70, abs=0.05)


def test_short_recordings_are_cut_where_that_is_wished() -> None:
    found = spans(cut(np.concatenate([quiet(2), voice(2), quiet(4), voice(2), quiet(2)]), CutOptions(always=True)))
    assert found == [pytest.approx((2, 4), abs=0.8), pytest.approx((8, 10), abs=0.8)]
    assert cut(quiet(5), CutOptions(always=True)) == []


def test_someone_far_away_is_heard() -> None:
    sound = np.concatenate([quiet(20), voice(3) / 50, quiet(20)])
    assert spans(cut(sound)) == [pytest.approx((20, 23), abs=0.8)]


def test_every_spoken_word_is_in_some_piece() -> None:
    """The voices of espeak-ng with pauses of all lengths, and noise."""
    dice = random.Random(4)
    noise = np.random.default_rng(4)
    parts, words, now = [], [], 0.0
    for _ in range(25):
        speech = decode_audio(say(" ".join(dice.choices(DIGITS, k=dice.randint(1, 9)))), 60).samples
        loud = np.flatnonzero(np.abs(speech) > 0.05)
        words.append((now + loud[0] / SAMPLE_RATE, now + loud[-1] / SAMPLE_RATE))
        pause = quiet(dice.choice([0.2, 0.7, 1.5, 6.0]))
        parts += [speech, pause]
        now += (len(speech) + len(pause)) / SAMPLE_RATE
    sound = np.concatenate(parts)
    sound = (sound + noise.standard_normal(len(sound)) * 0.003).astype(np.float32)
    found = spans(cut(sound))
    assert len(found) > 3
    for start, end in words:
        assert any(first <= start and end <= last for first, last in found), (start, end, found)


@pytest.mark.parametrize("options", [{"threshold": 2}, {"silence_s": -1}, {"pad_s": 11}, {"threshold": float("nan")}])
def test_bad_options_name_the_field(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))) as caught:
        CutOptions(**options)  # type: ignore[arg-type]
    assert caught.value.field == "chunking_strategy"


@pytest.mark.parametrize("may_be_long", [True, False])
def test_the_first_piece_of_a_stream_is_short(may_be_long: bool) -> None:
    options = CutOptions(first_s=10.0, may_be_long=may_be_long)
    sentences = np.concatenate([part for number in range(10) for part in (voice(4, number), quiet(0.6))])
    (first, end), *others = spans(cut(sentences, options))
    assert (first, round(end)) == (0, 9), "two sentences"
    assert [round(end - start) for start, end in others] == [28, 9]
    breathless = np.concatenate([voice(14), quiet(0.6), voice(20, 1), quiet(0.6), voice(9, 2)])
    assert spans(cut(breathless, options))[0] == (0, pytest.approx(14.3, abs=0.4)), "the first pause after it"
    assert len(cut(np.concatenate([voice(5), quiet(1), voice(20, 1)]), options)) == 1, "one window is left whole"


def test_pieces_may_be_shorter_than_a_window() -> None:
    sentences = np.concatenate([part for number in range(6) for part in (voice(4, number), quiet(0.6))])
    found = spans(cut(sentences, CutOptions(chunk_s=10.0)))
    assert [round(end - start) for start, end in found] == [9, 9, 9]
    assert len(cut(sentences)) == 1
    breathless = np.concatenate([voice(25), quiet(0.6), voice(4, 1)])
    assert [round(end - start) for start, end in spans(cut(breathless, CutOptions(chunk_s=10.0)))] == [25, 4]
