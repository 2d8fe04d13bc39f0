"""Recordings for the examination: spoken by espeak-ng now, narrowed, covered with noise, or without any speech.

Knows sound; the sentences come from sentences.py.
"""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile
import soxr

from tests.speech import words

Samples = np.ndarray[Any, np.dtype[np.float32]]

RATE = 16_000
NOISE_DB = 15
DEFAULT_VOICES = ("en-us", "en-gb")
OTHER_VOICES = ("en-us+f2", "en-us+m3", "en-gb+f4", "en-gb+m5", "en-gb-scotland", "en-us+f5", "en-gb-x-rp+m1")
GERMAN_VOICES = ("de", "de", "de+f2", "de+m3")
HELD_OUT_VOICE = "en-us+f4"
LANGUAGES = {"en": "english", "de": "german"}


@dataclass(frozen=True)
class Recording:
    """A sound file, what is said in it and what should be answered.

    task is `transcribe`, `translate` (into English) or `detect` (the language, answered by its code).
    """

    kind: str
    file: bytes = field(repr=False)
    said: str
    answer: str
    language: str = "en"
    task: str = "transcribe"

    @property
    def group(self) -> str:
        return self.kind

    @property
    def text(self) -> str:
        return self.said or "(nobody speaks)"

    def accepts(self, given: str) -> bool:
        return words(given) == words(self.answer)


def speak(text: str, voice: str, speed: int = 150, pitch: int = 50) -> bytes:
    """A WAV file of 22,050 Hz; speed is in words per minute, pitch from 0 to 99."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    return subprocess.run(command, check=True, capture_output=True).stdout


def read_samples(wav: bytes) -> Samples:
    """Mono samples at RATE."""
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return samples if rate == RATE else np.asarray(soxr.resample(samples, rate, RATE), np.float32)


def to_file(samples: Samples, format: str = "WAV") -> bytes:
    """A file of 16 kHz; format is libsndfile's name for it."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=format)
    return file.getvalue()


def narrowed(wav: bytes) -> bytes:
    """As a telephone hands it on: sampled at 8 kHz, and up again."""
    narrow = soxr.resample(read_samples(wav), RATE, RATE // 2)
    return to_file(np.asarray(soxr.resample(narrow, RATE // 2, RATE), np.float32))


def noisy(wav: bytes, dice: random.Random) -> bytes:
    """With white or pink noise, NOISE_DB below the speech (root mean square of where there is any)."""
    samples = read_samples(wav)
    speech = samples[np.abs(samples) > 0.01 * np.abs(samples).max()]
    noise = (white if dice.random() < 0.5 else pink)(dice, len(samples))
    scale = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-NOISE_DB / 20)
    mixed = samples + scale * noise
    return to_file((mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32))


def white(dice: random.Random, length: int) -> Samples:
    return np.random.default_rng(dice.getrandbits(64)).standard_normal(length, np.float32) / 4


def pink(dice: random.Random, length: int) -> Samples:
    """Noise whose power falls with the frequency."""
    spectrum = np.fft.rfft(white(dice, length))
    shaped = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    return np.asarray(shaped / (4 * shaped.std()), np.float32)


def silence(dice: random.Random, length: int) -> Samples:
    return np.zeros(length, np.float32)


def tone(dice: random.Random, length: int) -> Samples:
    """One steady tone."""
    return _waves([dice.uniform(80, 4000)], length)


def hum(dice: random.Random, length: int) -> Samples:
    """A chord that swells, like music behind a door."""
    root = dice.uniform(80, 400)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * dice.uniform(0.2, 1) * np.arange(length) / RATE)
    return np.asarray(_waves([root, root * 1.25, root * 1.5, root * 2], length) * swell, np.float32)


def mains(dice: random.Random, length: int) -> Samples:
    """Mains hum with its harmonics under a little noise."""
    root = dice.choice((50, 60))
    return _waves([root, 2 * root, 3 * root], length) + white(dice, length) * np.float32(0.05)


def _waves(frequencies: list[float], length: int) -> Samples:
    time = np.arange(length) / RATE
    waves = [np.sin(2 * np.pi * frequency * time) for frequency in frequencies]
    return np.asarray(np.mean(waves, axis=0) / 2, np.float32)


_WITHOUT_SPEECH: tuple[Callable[[random.Random, int], Samples], ...] = (silence, white, pink, tone, hum, mains)


def without_speech(dice: random.Random, place: int) -> Recording:
    """The kinds take turns; 1 to 20 seconds, loud and soft."""
    make = _WITHOUT_SPEECH[place % len(_WITHOUT_SPEECH)]
    samples = make(dice, round(RATE * dice.uniform(1, 20)))
    return Recording("no speech", to_file(np.float32(10 ** dice.uniform(-2, 0)) * samples), "", "")


def spoken(dice: random.Random, kind: str, sentence: str, voice: str, language: str = "en") -> Recording:
    file = speak(sentence, voice, dice.randint(130, 180), dice.randint(35, 65))
    return Recording(kind, file, sentence, sentence, language)
