"""Spoken clips: who speaks, with which silences, gain, noise and bandwidth, and what was said when.

Clips are float32 mono at 16 kHz. The held-out voices here are never used for training.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import soxr
from numpy.typing import NDArray

from training.speech import espeak, texts

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30.0

# File names, because espeak-ng 1.51 does not find a variant of a voice by its language name.
MAIN_ACCENTS = ("gmw/en-US", "gmw/en")
OTHER_ACCENTS = ("gmw/en-GB-x-rp", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan", "gmw/en-US-nyc")
_TRAIN_VARIANTS = (
    "m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f5", "klatt", "klatt2", "klatt4",
    "Andy", "Annie", "Alex", "Gene", "Lee", "Mario", "Michael", "adam", "linda", "steph", "john",
    "zac", "aunty", "croak", "whisper",
)
# Male, female and Klatt-synthesised ones, so that no kind of voice is only seen.
_HELD_OUT_VARIANTS = ("m5", "f4", "klatt3", "belinda", "david", "quincy")
_HELD_OUT_ACCENTS = ("gmw/en-GB-x-gbcwmd", "gmw/en-029")

Signal = NDArray[np.float32]


@dataclass
class Clip:
    """Samples with the segments in them (a segment is the words spoken in one breath)."""

    samples: Signal
    segments: list[list[espeak.Span]] = field(default_factory=list)
    phones: list[espeak.Span] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(word.name for segment in self.segments for word in segment)


def train_voice(rng: random.Random) -> espeak.Voice:
    """A random voice of the training set; a quarter are the plain accents everybody uses."""
    accent = rng.choice(MAIN_ACCENTS if rng.random() < 0.75 else OTHER_ACCENTS)
    plain = rng.random() < 0.25
    return _vary(accent if plain else f"{accent}+{rng.choice(_TRAIN_VARIANTS)}", rng)


def held_out_voice(rng: random.Random) -> espeak.Voice:
    """A voice with a variant or an accent that no training clip has."""
    if rng.random() < 0.75:
        return _vary(f"{rng.choice(MAIN_ACCENTS)}+{rng.choice(_HELD_OUT_VARIANTS)}", rng)
    return _vary(rng.choice(_HELD_OUT_ACCENTS), rng)


def _vary(name: str, rng: random.Random) -> espeak.Voice:
    # The default rate and pitch must not be rare: they are what the plain command speaks with.
    if rng.random() < 0.15:
        return espeak.Voice(name)
    return espeak.Voice(name, rng.randint(120, 200), rng.randint(30, 70), rng.randint(20, 80))


def spoken(synthesizer: espeak.Synthesizer, words: list[str], voice: espeak.Voice,
           rng: random.Random) -> Clip:
    """One segment without added silence. The words are those espeak reported, in order."""
    speech = synthesizer.speak(texts.spelled(words, rng), voice)
    samples = speech.samples.astype(np.float32) / 32768.0
    audio = soxr.resample(samples, espeak.SAMPLE_RATE, SAMPLE_RATE).astype(np.float32)
    return Clip(audio, [_aligned(words, speech.words)], speech.phones)


def _aligned(words: list[str], reported: list[espeak.Span]) -> list[espeak.Span]:
    """A span for every word. espeak-ng says "in the" as one word; the parts then share its span."""
    spans: list[espeak.Span] = []
    for word in words:
        here = reported[0] if reported else spans[-1]
        if reported and here.name == word:
            reported = reported[1:]
        elif spans:
            # The joint word is reported at its first part.
            here = spans[-1]
        spans.append(espeak.Span(word, here.start, here.end))
    if reported:
        raise ValueError(f"espeak-ng reported other words than {words}")
    return spans


def silence(seconds: float) -> Clip:
    return Clip(np.zeros(round(seconds * SAMPLE_RATE), np.float32))


def join(clips: list[Clip]) -> Clip:
    """Clips one after the other, with their times moved."""
    joined, offset = Clip(np.concatenate([clip.samples for clip in clips])), 0.0
    for clip in clips:
        joined.segments += [_moved(segment, offset) for segment in clip.segments]
        joined.phones += _moved(clip.phones, offset)
        offset += len(clip.samples) / SAMPLE_RATE
    return joined


def _moved(spans: list[espeak.Span], by: float) -> list[espeak.Span]:
    return [espeak.Span(span.name, span.start + by, span.end + by) for span in spans]


def short_clip(synthesizer: espeak.Synthesizer, words: list[str], voice: espeak.Voice,
               rng: random.Random) -> Clip:
    """One segment between short silences; a third begin at once, as synthesised files do."""
    before = 0.0 if rng.random() < 0.33 else rng.uniform(0.05, 0.8)
    after = 0.0 if rng.random() < 0.33 else rng.uniform(0.05, 0.6)
    return join([silence(before), spoken(synthesizer, words, voice, rng), silence(after)])


def long_clip(synthesizer: espeak.Synthesizer, compose: Callable[[random.Random], list[str]],
              voice: espeak.Voice, rng: random.Random) -> Clip:
    """Segments with pauses of 0.5 to 3 s that fill 8 to 30 s."""
    target, parts, seconds = rng.uniform(8.0, 29.0), [silence(rng.uniform(0.0, 2.0))], 0.0
    while True:
        part = spoken(synthesizer, compose(rng), voice, rng)
        pause = silence(rng.uniform(0.5, 3.0))
        seconds = sum(len(p.samples) for p in (*parts, part, pause)) / SAMPLE_RATE
        if seconds > target:
            # The first part may be longer than a small target; an empty clip would teach nothing.
            return join(parts if len(parts) > 1 else [*parts, part])
        parts += [part, pause]


def noise(length: int, rng: np.random.Generator) -> Signal:
    """White, pink or brown noise of unit power."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    # Amplitude falls as 1/f^0.5 in pink and 1/f in brown noise; white is drawn most often.
    slope = rng.choice((0.0, 0.0, 0.5, 1.0))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -slope
    wave = np.fft.irfft(spectrum, length)
    unit: Signal = (wave / (np.std(wave) + 1e-9)).astype(np.float32)
    return unit


def with_noise(samples: Signal, decibels: float, rng: np.random.Generator) -> Signal:
    """Noise at a signal-to-noise ratio measured over the parts that sound."""
    # Silence around the speech must not make the same ratio mean less noise.
    loud = samples[np.abs(samples) > 1e-3]
    power = float(np.mean(loud**2)) if len(loud) else 1e-4
    scale = np.sqrt(power / 10 ** (decibels / 10))
    mixed: Signal = (samples + scale * noise(len(samples), rng)).astype(np.float32)
    return mixed


def telephone(samples: Signal) -> Signal:
    """The bandwidth of an 8 kHz recording, back at 16 kHz."""
    narrow = soxr.resample(samples, SAMPLE_RATE, 8_000)
    wide = soxr.resample(narrow, 8_000, SAMPLE_RATE).astype(np.float32)
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)]


def augmented(clip: Clip, rng: random.Random, noises: np.random.Generator) -> Clip:
    """Bandwidth, gain and noise drawn at random; words and times stay."""
    samples = telephone(clip.samples) if rng.random() < 0.12 else clip.samples
    if rng.random() < 0.6:
        samples = samples * 10 ** (rng.uniform(-24.0, 3.0) / 20)
    if rng.random() < 0.5:
        samples = with_noise(samples, rng.uniform(10.0, 45.0), noises)
    return Clip(np.clip(samples, -1.0, 1.0).astype(np.float32), clip.segments, clip.phones)


def without_speech(rng: random.Random, noises: np.random.Generator) -> Clip:
    """Digital silence, noise at some level, or a steady tone: nothing to transcribe."""
    length = round(rng.uniform(0.3, 12.0) * SAMPLE_RATE)
    if rng.random() < 0.2:
        return Clip(np.zeros(length, np.float32))
    level = 10 ** (rng.uniform(-60.0, -12.0) / 20)
    samples = noise(length, noises) * level
    if rng.random() < 0.2:
        time = np.arange(length) / SAMPLE_RATE
        samples = samples * 0.1 + level * np.sin(2 * np.pi * rng.uniform(50, 2000) * time)
    return Clip(np.clip(samples, -1.0, 1.0).astype(np.float32))
