"""Spoken clips: who speaks, with which silences and sounds around, and what was said when.

Clips are float32 mono at 16 kHz. The held-out voices here are never used for training.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import soxr

from training.speech import espeak, sounds, texts
from training.speech.sounds import SAMPLE_RATE, Signal
from training.speech.texts import Text

WINDOW_SECONDS = 30.0

# File names, because espeak-ng 1.51 does not find a variant of a voice by its language name.
MAIN_ACCENTS = ("gmw/en-US", "gmw/en")
OTHER_ACCENTS = (
    "gmw/en-GB-x-rp",
    "gmw/en-GB-scotland",
    "gmw/en-GB-x-gbclan",
    "gmw/en-US-nyc",
    "gmw/en-029",
)
GERMAN = "gmw/de"
_COMMON_VARIANTS = ("m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f5")
_OTHER_VARIANTS = (
    "klatt",
    "klatt2",
    "klatt4",
    "croak",
    "whisper",
    "Andy",
    "Annie",
    "Alex",
    "Alicia",
    "Gene",
    "Lee",
    "Mario",
    "Michael",
    "Mike",
    "adam",
    "linda",
    "steph",
    "john",
    "zac",
    "aunty",
    "paul",
    "robert",
    "victor",
    "sandro",
    "shelby",
    "grandma",
    "grandpa",
    "max",
    "pablo",
    "ed",
    "caleb",
    "rob",
    "travis",
    "edward",
    "michel",
    "announcer",
)
# Male, female and Klatt-synthesised ones, so that no kind of voice is only seen.
_HELD_OUT_VARIANTS = ("m5", "f4", "klatt3", "belinda", "david", "quincy")
_HELD_OUT_ACCENTS = ("gmw/en-GB-x-gbcwmd",)


@dataclass
class Clip:
    """Samples with the segments in them (a segment is the words spoken in one breath)."""

    samples: Signal
    segments: list[list[espeak.Span]] = field(default_factory=list)
    phones: list[espeak.Span] = field(default_factory=list)
    translations: list[list[tuple[str, int]] | None] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(word.name for segment in self.segments for word in segment)


def train_voice(language: str, rng: random.Random) -> espeak.Voice:
    """A random voice of the training set; a third are the plain accents everybody uses."""
    accent = rng.choice(MAIN_ACCENTS if rng.random() < 0.75 else OTHER_ACCENTS)
    variants = _COMMON_VARIANTS if rng.random() < 0.6 else _OTHER_VARIANTS
    variant = "" if rng.random() < 0.33 else "+" + rng.choice(variants)
    return _vary((GERMAN if language == "de" else accent) + variant, rng)


def held_out_voice(language: str, rng: random.Random) -> espeak.Voice:
    """A voice with a variant or an accent that no training clip has."""
    if language == "en" and rng.random() < 0.25:
        return _vary(rng.choice(_HELD_OUT_ACCENTS), rng)
    accent = GERMAN if language == "de" else rng.choice(MAIN_ACCENTS)
    return _vary(f"{accent}+{rng.choice(_HELD_OUT_VARIANTS)}", rng)


def _vary(name: str, rng: random.Random) -> espeak.Voice:
    # The default rate and pitch must not be rare: they are what the plain command speaks with.
    if rng.random() < 0.15:
        return espeak.Voice(name)
    if rng.random() < 0.3:
        return espeak.Voice(name, rng.randint(110, 210))
    return espeak.Voice(name, rng.randint(110, 210), rng.randint(20, 80), rng.randint(20, 80))


def spoken(synthesizer: espeak.Synthesizer, said: list[Text], voice: espeak.Voice, rng: random.Random) -> Clip:
    """Texts read in one go, without added silence; each is a segment."""
    # A full stop gives the pause between two sentences that listeners expect there.
    parts = [texts.spelled(text, rng).rstrip(".,") + "." for text in said[:-1]]
    speech = synthesizer.speak(" ".join([*parts, texts.spelled(said[-1], rng)]), voice)
    samples = speech.samples.astype(np.float32) / 32768.0
    audio = soxr.resample(samples, espeak.SAMPLE_RATE, SAMPLE_RATE).astype(np.float32)
    clip, used = Clip(audio, phones=speech.phones), 0
    for text in said:
        words = speech.words[used : used + len(text.words)]
        if [word.name for word in words] != text.words:
            raise ValueError(f"espeak-ng reported {words} for {text.words}")
        clip.segments.append(words)
        clip.translations.append(text.translation)
        used += len(words)
    return clip


def silence(seconds: float) -> Clip:
    return Clip(np.zeros(round(seconds * SAMPLE_RATE), np.float32))


def join(clips: list[Clip]) -> Clip:
    """Clips one after the other, with their times moved."""
    joined, offset = Clip(np.concatenate([clip.samples for clip in clips])), 0.0
    for clip in clips:
        joined.segments += [_moved(segment, offset) for segment in clip.segments]
        joined.translations += clip.translations
        joined.phones += _moved(clip.phones, offset)
        offset += len(clip.samples) / SAMPLE_RATE
    return joined


def _moved(spans: list[espeak.Span], by: float) -> list[espeak.Span]:
    return [espeak.Span(span.name, span.start + by, span.end + by) for span in spans]


def _silences(rng: random.Random) -> tuple[Clip, Clip]:
    """Before and after speech; a third begin or end at once, as synthesised files do."""
    before = 0.0 if rng.random() < 0.33 else rng.uniform(0.05, 0.8)
    return silence(before), silence(0.0 if rng.random() < 0.33 else rng.uniform(0.05, 0.6))


def short_clip(synthesizer: espeak.Synthesizer, said: list[Text], voice: espeak.Voice, rng: random.Random) -> Clip:
    """A few texts read in one go, between short silences."""
    before, after = _silences(rng)
    return join([before, spoken(synthesizer, said, voice, rng), after])


def long_clip(
    synthesizer: espeak.Synthesizer, compose: Callable[[random.Random], Text], voice: espeak.Voice, rng: random.Random
) -> Clip:
    """Segments with pauses of 0.3 to 3 s that fill 8 to 30 s."""
    target, parts, seconds = rng.uniform(8.0, 29.0), [silence(rng.uniform(0.0, 2.0))], 0.0
    while True:
        part = spoken(synthesizer, [compose(rng)], voice, rng)
        pause = silence(rng.uniform(0.3, rng.choice((1.0, 3.0))))
        seconds = sum(len(p.samples) for p in (*parts, part, pause)) / SAMPLE_RATE
        if seconds > target:
            # The first part may be longer than a small target; an empty clip would teach nothing.
            return join(parts if len(parts) > 1 else [*parts, part])
        parts += [part, pause]


def augmented(clip: Clip, rng: random.Random, noises: np.random.Generator) -> Clip:
    """Room, bandwidth, gain and noise drawn at random; words and times stay."""
    samples = sounds.reverberant(clip.samples, noises) if rng.random() < 0.1 else clip.samples
    if rng.random() < 0.15:
        samples = sounds.telephone(samples)
    if rng.random() < 0.6:
        samples = samples * 10 ** (rng.uniform(-24.0, 3.0) / 20)
    if rng.random() < 0.5:
        samples = sounds.with_noise(samples, rng.uniform(8.0, 45.0), noises)
    return replace(clip, samples=np.clip(samples, -1.0, 1.0).astype(np.float32))
