"""The examination papers: how many questions of each kind. The same seed gives the same papers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.examination.pairs import ask_both, ask_more, ask_one_of_two, ask_shows
from tests.examination.prints import ask_number, word_maker
from tests.examination.question import Maker, Question
from tests.examination.questions import CAPTIONS, QUESTIONS
from tests.examination.recordings import (
    DEFAULT_VOICES,
    GERMAN_VOICES,
    OTHER_VOICES,
    Recording,
    narrowed,
    noisy,
    spoken,
    without_speech,
)
from tests.examination.sentences import english, german
from tests.examination.styles import STYLES
from tests.examination.talk import talk_makers
from tests.examination.tools import TOOL_QUESTIONS
from tests.examination.words import Vocabulary

# Recordings of each condition; German ones are asked for their translation as well.
_DEFAULT, _CONDITION, _GERMAN = 120, 60, 40


def vision_paper(seed: int, words: tuple[str, ...], share: float = 1.0) -> list[Question]:
    """All questions for the chat model; `share` below 1 makes a shorter paper."""
    plan: list[tuple[Maker, int]] = [
        *((CAPTIONS[number], 60) for number in (1, 2, 3)),
        *((CAPTIONS[number], 30) for number in (4, 5)),
        *((maker, 25) for maker in QUESTIONS),
        (ask_number, 120),
        (partial(word_maker, words), 60),
        (ask_more, 60),
        (ask_shows, 40),
        (ask_one_of_two, 30),
        (ask_both, 20),
        *((maker, 12) for maker in talk_makers(words)),
        *((maker, 25) for maker in STYLES),
        *((maker, 25) for maker in TOOL_QUESTIONS),
    ]
    return [
        question for place, (maker, number) in enumerate(plan) for question in _some(seed, place, maker, number, share)
    ]


def _some(seed: int, place: int, maker: Maker, number: int, share: float) -> Iterator[Question]:
    """Each kind has dice of its own, so that a change of one leaves the others as they are."""
    dice = random.Random(f"{seed} {place}")
    for _ in range(_part(number, share)):
        yield maker(dice)


def speech_paper(seed: int, vocabulary: Vocabulary, held_out_voice: str, share: float = 1.0) -> list[Recording]:
    """All recordings for the speech model."""
    dice = random.Random(f"{seed} speech")
    default, condition = _part(_DEFAULT, share), _part(_CONDITION, share)
    sentences = english(dice, vocabulary, default + 4 * condition)

    def next_ones(number: int, kind: str, *voices: str) -> list[Recording]:
        return [spoken(dice, kind, sentences.pop(), dice.choice(voices)) for _ in range(number)]

    clean = next_ones(default, "unseen sentences", *DEFAULT_VOICES)
    other = next_ones(condition, "other voices", *OTHER_VOICES)
    held_out = next_ones(condition, "held-out voice", held_out_voice)
    narrow = [replace(one, file=narrowed(one.file)) for one in next_ones(condition, "8 kHz", *DEFAULT_VOICES)]
    covered = [replace(one, file=noisy(one.file, dice)) for one in next_ones(condition, "noise 15 dB", *DEFAULT_VOICES)]
    empty = [without_speech(dice, seed + place) for place in range(condition)]
    native, translated = _german(dice, vocabulary, _part(_GERMAN, share))
    detected = [replace(one, kind="language detected", task="detect", answer=one.language) for one in (*clean, *native)]
    return [*clean, *other, *held_out, *narrow, *covered, *empty, *native, *translated, *detected]


def _german(dice: random.Random, vocabulary: Vocabulary, number: int) -> tuple[list[Recording], list[Recording]]:
    pairs = german(dice, vocabulary, number)
    native = [spoken(dice, "German", sentence, dice.choice(GERMAN_VOICES), "de") for sentence, _ in pairs]
    translated = [
        replace(recording, kind="German to English", task="translate", answer=translation)
        for recording, (_, translation) in zip(native, pairs, strict=True)
    ]
    return native, translated


def _part(number: int, share: float) -> int:
    return max(1, round(number * share))
