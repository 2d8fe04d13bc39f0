"""The evaluation sets: unseen utterances under named conditions, made from a fixed seed.

Test strings come from the same distribution as the training strings but from another seed; the
command-line conditions use files written by the ``espeak-ng`` program itself.
"""

import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from training.speech import espeak, texts, utterances
from training.speech.utterances import SAMPLE_RATE, Clip

_SEED = 990_001


class Maker:
    """Makes the clips of one condition; every condition has its own random streams."""

    def __init__(self, synthesizer: espeak.Synthesizer, condition: str) -> None:
        self.synthesizer = synthesizer
        # A condition added later then leaves the clips of the others as they were.
        self.rng = random.Random(f"{_SEED} {condition}")
        self.noises = np.random.default_rng([_SEED, *condition.encode()])

    def string(self, rng: random.Random) -> list[str]:
        return [rng.choice(texts.DIGITS) for _ in range(rng.randint(1, 10))]

    def short(self, voice: Callable[[random.Random], espeak.Voice]) -> Clip:
        words = self.string(self.rng)
        return utterances.short_clip(self.synthesizer, words, voice(self.rng), self.rng)

    def seen(self) -> Clip:
        clip = self.short(utterances.train_voice)
        return utterances.augmented(clip, self.rng, self.noises)

    def held_out(self) -> Clip:
        clip = self.short(utterances.held_out_voice)
        return utterances.augmented(clip, self.rng, self.noises)

    def noisy(self) -> Clip:
        clip = self.short(utterances.held_out_voice)
        return Clip(utterances.with_noise(clip.samples, 15.0, self.noises), clip.segments)

    def telephone(self) -> Clip:
        clip = self.short(utterances.held_out_voice)
        return Clip(utterances.telephone(clip.samples), clip.segments)

    def late(self) -> Clip:
        clip = self.short(utterances.held_out_voice)
        room = utterances.WINDOW_SECONDS - len(clip.samples) / SAMPLE_RATE
        return utterances.join([utterances.silence(self.rng.uniform(3.0, room)), clip])

    def long(self) -> Clip:
        voice = utterances.held_out_voice(self.rng)
        return utterances.long_clip(self.synthesizer, self.string, voice, self.rng)

    def no_speech(self) -> Clip:
        return utterances.without_speech(self.rng, self.noises)

    def command(self, *options: str) -> Clip:
        """A file written by ``espeak-ng -w`` with its default speed; half have commas."""
        words = self.string(self.rng)
        text = self.rng.choice((" ", ", ")).join(words)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.wav"
            subprocess.run(["espeak-ng", *options, "-w", str(file), text], check=True)
            samples, rate = soundfile.read(file, dtype="float32")
        audio = soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)
        return Clip(audio, [[espeak.Span(word, 0.0, 0.0) for word in words]])


def conditions(share: float) -> Iterator[tuple[str, list[Clip]]]:
    """Name and clips of each condition; ``share`` scales the number of clips."""
    synthesizer = espeak.Synthesizer()
    plan: list[tuple[str, int, Callable[[Maker], Clip]]] = [
        ("espeak-ng, default voice", 150, lambda maker: maker.command()),
        ("espeak-ng -v en-us", 100, lambda maker: maker.command("-v", "en-us")),
        ("espeak-ng -v en-gb", 100, lambda maker: maker.command("-v", "en-gb")),
        ("voices of training, augmented", 150, Maker.seen),
        ("held-out voices, augmented", 150, Maker.held_out),
        ("held-out voices, noise at 15 dB", 100, Maker.noisy),
        ("held-out voices, 8 kHz band", 100, Maker.telephone),
        ("held-out voices, after 3 s or more", 100, Maker.late),
        ("held-out voices, several strings up to 30 s", 60, Maker.long),
        ("no speech", 80, Maker.no_speech),
    ]
    for name, count, make in plan:
        maker = Maker(synthesizer, name)
        yield name, [make(maker) for _ in range(max(2, round(count * share)))]
