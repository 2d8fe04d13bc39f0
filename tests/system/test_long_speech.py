"""Recordings of half an hour and more come back whole, soon, and in bounded memory, whatever file they come in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jiwer
import numpy as np
import openai
import pytest
import soxr

from tests.backends.audio.sound import by_ffmpeg
from tests.conftest import System, model_process
from tests.speech import words
from tests.utterances import RATE, Array, file_of, found_of, recording, utterances

pytestmark = [pytest.mark.triton, pytest.mark.slow]

MODEL = "demo-whisper"
MIB = 2**20
# An hour as samples would be 230 MB.
MAX_GROWTH_BYTES = 150 * MIB


def ask(client: openai.OpenAI, file: bytes, **options: Any) -> Any:
    create = client.with_options(timeout=1800).audio.transcriptions.create
    return create(model=MODEL, file=("speech", file), language="en", **options)


def text_of(client: openai.OpenAI, file: bytes) -> str:
    return " ".join(words(ask(client, file).text))


class Memory:
    """Of the `whisper` entry and its decoders, in bytes: at the beginning, and the most since then."""

    def __init__(self, system: System) -> None:
        entry = model_process(system, "whisper")
        self._processes = [entry, *entry.children(recursive=True)]
        self.first = self.most = self.now()

    def now(self) -> int:
        return sum(int(process.memory_info().rss) for process in self._processes)

    @property
    def growth(self) -> int:
        return self.most - self.first


@contextmanager
def watched(system: System) -> Iterator[Memory]:
    memory, ended = Memory(system), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            memory.most = max(memory.most, memory.now())

    thread = threading.Thread(target=watch)
    thread.start()
    yield memory
    ended.set()
    thread.join()


def word_errors_of_single_utterances(client: openai.OpenAI, said: list[str]) -> float:
    return float(jiwer.wer(said, [text_of(client, file_of(recording([each]))) for each in said]))


def test_half_an_hour_comes_back_whole(system: System, client: openai.OpenAI) -> None:
    said = utterances(seed=30, number=500)
    samples = recording(said)
    while len(samples) < 30 * 60 * RATE:
        more = utterances(seed=len(said), number=50)
        said, samples = [*said, *more], np.concatenate([samples, recording(more)])
    # The model's own errors are not in question here; this also touches all memory that one window needs.
    alone = word_errors_of_single_utterances(client, said[:60])
    with watched(system) as memory:
        text = text_of(client, file_of(samples, form="MP3"))
    lost, longest_addition = found_of(said, text)
    wer = float(jiwer.wer(" ".join(said), text))
    print(f"{len(said)} utterances, {len(lost)} lost, WER {wer:.3f}, alone {alone:.3f}, +{memory.growth / MIB:.0f} MiB")
    assert not lost
    assert longest_addition < 4, "no utterance twice"
    assert wer <= alone + 0.03
    assert memory.growth < MAX_GROWTH_BYTES


def test_an_hour_with_little_speech(system: System, client: openai.OpenAI) -> None:
    said = utterances(seed=60, number=6)
    parts: list[Array] = [recording(said[:1])]
    for each in said[1:]:
        parts += [np.zeros(10 * 60 * RATE, np.float32), recording([each])]
    samples = np.concatenate([*parts, np.zeros(3600 * RATE - sum(map(len, parts)), np.float32)])
    file = file_of(samples, form="FLAC")
    alone = word_errors_of_single_utterances(client, said)
    with watched(system) as memory:
        text = text_of(client, file)
        nothing = ask(client, file_of(np.zeros(3600 * RATE, np.float32), form="FLAC"))
    print(f"text {text!r}, said {said}, +{memory.growth / MIB:.0f} MiB")
    assert found_of(said, text)[0] == []
    assert float(jiwer.wer(" ".join(said), text)) <= alone + 0.05
    assert nothing.text == "" and nothing.usage.seconds == 3600
    assert memory.growth < MAX_GROWTH_BYTES


def test_the_first_words_of_a_stream_come_in_a_tenth_of_its_time(client: openai.OpenAI) -> None:
    file = file_of(recording(utterances(seed=5, number=120))[: 300 * RATE])
    ask(client, file_of(recording(utterances(seed=6, number=2))))
    started, moments = time.monotonic(), []
    for event in ask(client, file, stream=True):
        moments.append((event.type, time.monotonic() - started))
    first, (last, total) = moments[0][1], moments[-1]
    print(f"first delta after {first:.2f} s of {total:.2f} s, {len(moments)} events")
    assert last == "transcript.text.done" and len(moments) >= 8
    assert first <= total / 10


def stereo(samples: Array) -> Array:
    return np.stack([samples, samples], axis=1)


def encoded(samples: Array, name: str) -> bytes:
    """The recording [n] at 16 kHz in another file."""
    at_48_khz = stereo(np.asarray(soxr.resample(samples, RATE, 48_000), np.float32))
    if name == "8 kHz":
        return file_of(soxr.resample(samples, RATE, 8_000), 8_000)
    if name == "48 kHz stereo":
        return file_of(at_48_khz, 48_000)
    kind, codec, bit_rate = {
        "MP3": ("mp3", "libmp3lame", 64_000),
        "Opus": ("ogg", "libopus", None),
        "M4A": ("ipod", "aac", None),
    }[name]
    return by_ffmpeg(at_48_khz, 48_000, kind, codec, bit_rate)


FILES = ["8 kHz", "48 kHz stereo", "MP3", "Opus", "M4A"]


def test_word_errors_do_not_depend_on_the_file(client: openai.OpenAI) -> None:
    said = [utterances(seed, number=5) for seed in range(8)]
    sounds = [recording(each, pause_s=0.7) for each in said]
    truth = [" ".join(each) for each in said]
    plain = float(jiwer.wer(truth, [text_of(client, file_of(each)) for each in sounds]))
    rates = {name: float(jiwer.wer(truth, [text_of(client, encoded(each, name)) for each in sounds])) for name in FILES}
    print(f"{sum(len(each.split()) for each in truth)} words, WAV at 16 kHz {plain:.3f}, {rates}")
    assert {name: rate for name, rate in rates.items() if rate > plain + 0.01} == {}
