"""Utterances that the bundled speech model knows, and recordings made of them; spoken when the test runs."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
import soxr

from tests.checkpoints import DEMO_WHISPER
from tests.examination.sentences import english
from tests.examination.words import read_vocabulary
from tests.speech import DIGITS, say, words

Array = np.ndarray[Any, Any]
RATE = 16_000


def utterances(seed: int, number: int, model: Path = DEMO_WHISPER) -> list[str]:
    """Sentences over the words of the checkpoint's vocabulary.txt; without one, five different digits each."""
    dice, vocabulary = random.Random(seed), model / "vocabulary.txt"
    if vocabulary.exists():
        return english(dice, read_vocabulary(vocabulary), number)
    return [" ".join(dice.sample(DIGITS, 5)) for _ in range(number)]


def samples_of(wav: bytes, rate: int = RATE) -> Array:
    """float32 [n] at `rate`."""
    found, own_rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return np.asarray(soxr.resample(found, own_rate, rate), np.float32)


def file_of(samples: Array, rate: int = RATE, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def recording(said: Sequence[str], pause_s: float = 1.0) -> Array:
    """The utterances with a pause after each, at 16 kHz."""
    pause = np.zeros(round(pause_s * RATE), np.float32)
    return np.concatenate([part for each in said for part in (samples_of(say(each)), pause)])


def found_of(said: Sequence[str], text: str) -> tuple[list[str], int]:
    """Utterances of which no word came back at its place, and the longest run of words that nobody said."""
    output = jiwer.process_words(" ".join(said), " ".join(words(text)))
    heard: set[int] = set()
    longest = 0
    for chunk in output.alignments[0]:
        if chunk.type == "equal":
            heard.update(range(chunk.ref_start_idx, chunk.ref_end_idx))
        elif chunk.type == "insert":
            longest = max(longest, chunk.hyp_end_idx - chunk.hyp_start_idx)
    ends = np.cumsum([len(each.split()) for each in said]).tolist()
    places = zip(said, [0, *ends], ends, strict=False)
    return [each for each, start, end in places if heard.isdisjoint(range(start, end))], longest
