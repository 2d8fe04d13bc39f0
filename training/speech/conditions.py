"""The evaluation sets: unseen utterances under named conditions, made from a fixed seed.

English test sentences have patterns of their own, so that figures are not those of the training
grammar; the command-line conditions use files written by the ``espeak-ng`` program itself.
"""

import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr

from training.speech import english, espeak, sounds, texts, utterances
from training.speech.sounds import SAMPLE_RATE
from training.speech.texts import Text
from training.speech.utterances import Clip

_SEED = 990_001
_LONGEST = 10

# None of these is a pattern of ``english.GRAMMAR``.
_SENTENCES = [
    "{name} and {name} are going home {when}",
    "the {animal} in the {place} is {colour}",
    "my {person} always has {food} and {drink} for {meal}",
    "can we go to the {place} on {day}",
    "nobody bought the {colour} {object}",
    "they sold {digit} {things} in {month}",
    "please open the {device} in the {room} now",
    "she looks very {adjective} this {part}",
    "the {person} with the {clothing} is my {person}",
    "how far is the {place} from here",
    "after {meal} we {walked} around the {place}",
    "his {body} was {adjective} yesterday",
    "put the {food} and the {food} on the {object}",
    "you should not drink so much {drink}",
    "is this your {object} or my {object}",
    "the {vehicle} to {city} is late {when}",
    "we need {digit} {things} and some {food}",
    "the alarm is at {digit} in the {part}",
    "count the {things} again please",
    "it was a {adjective} {season} in {country}",
    "their {place} is {adjective}",
    "remember the {idea} of my {person}",
    "call the {person} before {day}",
    "i was at the {place} with {name} and her {animal}",
    "the {colour} {shape} is above the {colour} {shape}",
    "turn the {device} {onoff} at {digit}",
    "every {person} wants a {adjective} {thing2}",
    "no {animal} can {walk} like a {animal}",
    "the {sky} is {adjective} over the {place}",
    "{digit} hundred {things} are too many",
    "will {name} come to {city} in {month}",
    "he never eats {food} in the {part}",
]
_SLOT = re.compile(r"\{([a-z]+)2?\}")
_KNOWN = frozenset(texts.english_words())


def test_sentence(rng: random.Random) -> Text:
    """An English sentence of a pattern that training never had."""
    while True:
        pattern = rng.choice(_SENTENCES).replace("thing2", "object")
        words = _SLOT.sub(lambda slot: rng.choice(english.GRAMMAR[slot[1]]), pattern).split()
        # A pattern may use a word outside the vocabulary; what is never taught is not tested.
        if _KNOWN.issuperset(words):
            return Text("en", words)


@dataclass(frozen=True)
class Condition:
    """Clips with the language and task asked for. ``timed`` conditions are also decoded with
    timestamps; ``prompts`` are texts said to have come before."""

    name: str
    clips: list[Clip]
    language: str = "en"
    task: str = "transcribe"
    timed: bool = False
    prompts: list[str] = field(default_factory=list)

    @property
    def references(self) -> list[str]:
        if self.task == "transcribe":
            return [clip.text for clip in self.clips]
        return [" ".join(word for segment in clip.translations for word, _ in segment or ()) for clip in self.clips]


class Maker:
    """Makes the clips of one condition; every condition has its own random streams."""

    def __init__(self, synthesizer: espeak.Synthesizer, condition: str) -> None:
        self.synthesizer = synthesizer
        # A condition added later then leaves the clips of the others as they were.
        self.rng = random.Random(f"{_SEED} {condition}")
        self.noises = np.random.default_rng([_SEED, *condition.encode()])

    def digits(self) -> Text:
        return Text("en", [self.rng.choice(texts.DIGITS) for _ in range(self.rng.randint(1, 10))])

    def sentence(self, language: str = "en") -> Text:
        return texts.german_sentence(self.rng) if language == "de" else test_sentence(self.rng)

    def spoken(self, held_out: bool, said: Text) -> Clip:
        draw = utterances.held_out_voice if held_out else utterances.train_voice
        voice = draw(said.language, self.rng)
        return utterances.short_clip(self.synthesizer, [said], voice, self.rng)

    def clean(self) -> Clip:
        return self.spoken(True, self.sentence())

    def seen(self) -> Clip:
        return utterances.augmented(self.spoken(False, self.sentence()), self.rng, self.noises)

    def noisy(self) -> Clip:
        clip = self.clean()
        return Clip(sounds.with_noise(clip.samples, 15.0, self.noises), clip.segments)

    def telephone(self) -> Clip:
        clip = self.clean()
        return Clip(sounds.telephone(clip.samples), clip.segments)

    def random_words(self) -> Clip:
        known = sorted(_KNOWN - english.ONLY_IN_SENTENCES)
        return self.spoken(True, Text("en", self.rng.choices(known, k=self.rng.randint(1, 8))))

    def late(self) -> Clip:
        clip = self.clean()
        room = utterances.WINDOW_SECONDS - len(clip.samples) / SAMPLE_RATE
        return utterances.join([utterances.silence(self.rng.uniform(3.0, room)), clip])

    def several(self) -> Clip:
        """Two to five sentences of one voice with pauses."""
        voice, parts = utterances.held_out_voice("en", self.rng), []
        for _ in range(self.rng.randint(2, 5)):
            parts.append(utterances.spoken(self.synthesizer, [self.sentence()], voice, self.rng))
            parts.append(utterances.silence(self.rng.uniform(0.4, 1.5)))
        return utterances.join(parts)

    def no_speech(self) -> Clip:
        return Clip(sounds.without_speech(self.rng, self.noises))

    def command(self, said: Text, *options: str) -> Clip:
        """A file written by ``espeak-ng -w``."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.wav"
            text = " ".join(said.words)
            subprocess.run(["espeak-ng", *options, "-w", str(file), text], check=True)
            samples, rate = soundfile.read(file, dtype="float32")
        audio = soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)
        words = [espeak.Span(word, 0.0, 0.0) for word in said.words]
        return Clip(audio, [words], translations=[said.translation])

    def english_command(self, said: Text) -> Clip:
        """The voices and speeds that people use without thinking."""
        voice = self.rng.choice(("en", "en-us", "en-gb"))
        return self.command(said, "-v", voice, "-s", str(self.rng.randint(120, 190)))

    def german_command(self) -> Clip:
        speed = str(self.rng.randint(120, 190))
        return self.command(self.sentence("de"), "-v", "de", "-s", speed)


def conditions(share: float) -> Iterator[Condition]:
    """Every condition; ``share`` scales the number of clips."""
    synthesizer = espeak.Synthesizer()

    def made(name: str, make: Callable[[Maker], Clip], count: int = 100) -> list[Clip]:
        maker = Maker(synthesizer, name)
        return [make(maker) for _ in range(max(2, round(count * share)))]

    def plain(name: str, make: Callable[[Maker], Clip], timed: bool = False) -> Condition:
        return Condition(name, made(name, make), timed=timed)

    yield plain("digits, espeak-ng program", lambda m: m.english_command(m.digits()))
    yield plain("sentences, espeak-ng program", lambda m: m.english_command(m.sentence()))
    yield plain("sentences, voices of training, augmented", Maker.seen)
    yield plain("sentences, held-out voices", Maker.clean, timed=True)
    yield plain("sentences, held-out voices, 8 kHz band", Maker.telephone)
    yield plain("sentences, held-out voices, noise at 15 dB", Maker.noisy)
    yield plain("sentences, held-out voices, after 3 s or more", Maker.late)
    yield plain("random words, held-out voices", Maker.random_words)
    yield plain("several sentences, held-out voices", Maker.several, timed=True)
    clips = made("sentences with a prompt", Maker.clean)
    rng = random.Random(_SEED)
    prompts = [" ".join(test_sentence(rng).words) for _ in clips]
    yield Condition("sentences with a prompt", clips, prompts=prompts)
    german = made("German", Maker.german_command)
    yield Condition("German sentences, espeak-ng program", german, "de")
    yield Condition("German translated to English", german, "de", "translate")
    yield plain("no speech", Maker.no_speech)
