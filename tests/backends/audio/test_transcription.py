"""Windows of a recording in the right order, and their texts put together again; worked out by hand."""

from __future__ import annotations

import numpy as np

from python_backends.audio.regions import GivenRegion
from python_backends.audio.transcription import ModelFacts, Region, Transcription
from python_backends.audio.windows import DecodeOptions, Window, WindowText, Word

BEGIN = 1000
FACTS = ModelFacts(window_frames=3000, timestamp_begin=BEGIN, previous=900, room=4)
TIMED = DecodeOptions("transcribe", timestamps=True)
PLAIN = DecodeOptions("transcribe")


class Given:
    """Regions that are there when the test says so."""

    def __init__(self, *regions: Region) -> None:
        self.waiting = list(regions)
        self.ended = False
        self.duration = 0.0

    def take(self) -> Region | None:
        if not self.waiting:
            return None
        region = self.waiting.pop(0)
        self.duration = region.start + region.duration
        return region


def at(seconds: float) -> int:
    return BEGIN + round(seconds * 50)


def region(seconds: float, start: float = 0.0) -> Region:
    frames = max(3000, round(seconds * 100))
    return Region(np.arange(2 * frames, dtype=np.float32).reshape(2, frames), seconds, start)


def said(*tokens: int, language: str = "<|en|>", finished: bool = True, **more: object) -> WindowText:
    return WindowText(tuple(tokens), "", language, finished, **more)  # type: ignore[arg-type]


def alone(seconds: float, options: DecodeOptions = TIMED, facts: ModelFacts = FACTS) -> Transcription:
    return Transcription(GivenRegion(region(seconds)), "", options, facts)


def window(job: Transcription) -> Window:
    found = job.window()
    assert found is not None
    return found


def times(job: Transcription) -> list[tuple[float, float]]:
    return [(each.segment.start, each.segment.end) for each in job.read()]


def test_windows_follow_the_timestamps() -> None:
    job = alone(45)
    first = window(job)
    assert (first.features[0, 0], first.seek, first.num_frames, first.language) == (0, 0, 3000, "")
    assert job.window() is None, "the next one starts where this one ends"
    job.add(first, said(at(0), 1, at(28), at(28), 2))
    second = window(job)
    assert (second.features[0, 0], second.seek, second.num_frames, second.language) == (2800, 2800, 1700, "<|en|>")
    assert not job.done
    job.add(second, said(at(0), 3, at(17), language="<|de|>"))
    assert job.done
    assert times(job) == [(0.0, 28.0), (28.0, 45.0)]
    assert job.language == "<|en|>", "the first window decides"
    assert not job.truncated


def test_padding_is_not_transcribed() -> None:
    job = alone(5)
    job.add(window(job), said(at(0), 1, at(5), at(5)))
    assert job.done
    assert times(job) == [(0.0, 5.0)]


def test_times_end_with_the_recording() -> None:
    job = alone(5, PLAIN, ModelFacts(3000, None))
    job.add(window(job), said(1, 2, language="", finished=False))
    assert job.done
    assert times(job) == [(0.0, 5.0)]
    assert job.truncated


def test_silence_moves_on_without_a_segment() -> None:
    job = alone(45)
    job.add(window(job), said())
    assert not job.done
    job.add(window(job), said())
    assert job.done
    assert job.read() == []
    assert repr(job) == "<Transcription 0 windows of 0 regions being decoded>"


def test_a_model_that_hardly_moves_is_made_to() -> None:
    job = alone(60)
    num_windows = 0
    while not job.done:
        job.add(window(job), said(at(0), 1, at(0.02), at(0.02), 2))
        num_windows += 1
    assert num_windows == 7 + 2


def test_no_sound_at_all_is_one_window() -> None:
    assert window(alone(0, PLAIN)).features.shape == (2, 3000)


def test_a_long_region_is_decoded_with_timestamps_whatever_was_asked() -> None:
    assert window(alone(45, PLAIN)).options.timestamps
    assert not window(alone(30, PLAIN)).options.timestamps


def test_regions_are_decoded_at_the_same_time_and_read_in_order() -> None:
    source = Given(region(10, 0), region(20, 12), region(5, 40))
    job = Transcription(source, "<|en|>", TIMED, FACTS, max_open=2)
    first, second = window(job), window(job)
    assert (first.seek, second.seek) == (0, 1200)
    assert job.window() is None, "two are open already"
    job.add(second, said(at(0), 1, at(2)))
    assert job.read() == [], "nobody knows yet what comes before"
    third = window(job)
    job.add(first, said(at(1), 2, at(3), at(3), 4, at(9)))
    assert times(job) == [(1.0, 3.0), (3.0, 9.0), (12.0, 14.0)]
    source.ended = True
    assert not job.done
    job.add(third, said(at(0), 5, at(8)))
    assert times(job) == [(40.0, 45.0)], "the text ends with the region"
    assert job.done


def test_the_language_is_heard_once() -> None:
    job = Transcription(Given(region(10), region(10, 10)), "", TIMED, FACTS, max_open=4)
    first = window(job)
    assert job.window() is None
    job.add(first, said(at(0), 1, at(2), language="<|de|>"))
    assert window(job).language == "<|de|>"


def test_earlier_text_is_the_prompt_where_that_is_wished() -> None:
    options = DecodeOptions("transcribe", prompt_ids=(900, 7), timestamps=True, condition_on_previous_text=True)
    job = Transcription(Given(region(10), region(10, 10), region(10, 20)), "<|en|>", options, FACTS, max_open=4)
    first = window(job)
    assert first.prompt_ids == (900, 7)
    assert job.window() is None, "its text is the prompt of the next"
    job.add(first, said(at(0), 1, 2, at(2)))
    second = window(job)
    assert second.prompt_ids == (900, at(0), 1, 2, at(2)), "four tokens have room"
    job.add(second, said(at(0), 3, at(2), temperature=0.8))
    assert window(job).prompt_ids == (), "wild text is no context"
    assert job.num_prompt_tokens == 2 + 5


def test_a_prompt_is_given_to_every_window() -> None:
    job = Transcription(Given(region(10), region(10, 10)), "<|en|>", DecodeOptions("transcribe", (900, 7)), FACTS, 2)
    assert [window(job).prompt_ids, window(job).prompt_ids] == [(900, 7), (900, 7)]


def test_words_and_log_probabilities_go_with_their_segment() -> None:
    job = alone(45)
    words = (Word(" a", 0.5, 1.0, 1), Word(" b", 3.0, 3.5, 4), Word(" c", 29.0, 29.5, 6))
    tokens = (at(0), 1, at(2), at(3), 2, at(28), 3)
    job.add(window(job), said(*tokens, words=words, logprobs=tuple(-number / 10 for number in range(7))))
    job.add(window(job), said(at(0), 4, at(9), words=(Word(" d", 1.0, 2.0, 1),), logprobs=(0.0, -1.0, 0.0)))
    found = job.read()
    assert [[word.text for word in each.words] for each in found] == [[" a"], [" d"]], "the rest was not finished"
    assert (found[1].words[0].start, found[1].words[0].end) == (3.0, 4.0)
    assert found[0].logprobs == (0.0, -0.1, -0.2)


def test_words_lie_inside_their_segment() -> None:
    job = alone(20)
    words = (Word(" a", 0.2, 1.7, 1), Word(" b", 1.5, 3.0, 2), Word(" c", 3.2, 9.5, 5))
    job.add(window(job), said(at(0.5), 1, 2, at(2.5), at(3), 3, at(9), words=words))
    first, second = job.read()
    assert [(word.start, word.end) for word in first.words] == [(0.5, 1.7), (1.5, 2.5)]
    assert [(word.start, word.end) for word in second.words] == [(3.2, 9.0)]


def test_a_segment_whose_end_is_not_said_ends_with_its_last_word() -> None:
    job = alone(20)
    job.add(window(job), said(at(0.5), 1, words=(Word(" a", 0.6, 9.0, 1),)))
    (found,) = job.read()
    assert (found.segment.end, found.words[0].end) == (9.0, 9.0)


def test_the_first_window_of_a_stream_is_decoded_alone() -> None:
    source = Given(region(10), region(10, 10), region(10, 20))
    job = Transcription(source, "<|en|>", TIMED, FACTS, max_open=2, first_alone=True)
    first = window(job)
    assert job.window() is None
    job.add(first, said(at(0), 1, at(2)))
    assert [window(job).seek, window(job).seek] == [1000, 2000]
