"""Transcription through the official client, of digits spoken when the test runs."""

from __future__ import annotations

import random

import httpx
import jiwer
import openai
import pytest

from tests.conftest import System
from tests.speech import DIGITS, say, words

pytestmark = pytest.mark.triton


def transcribe(client: openai.OpenAI, wav: bytes) -> str:
    return client.audio.transcriptions.create(model="demo-whisper", file=("speech.wav", wav), language="en").text


def test_fresh_digit_strings_have_few_word_errors(client: openai.OpenAI) -> None:
    dice = random.Random(2031)
    truths, heard = [], []
    for number in range(10):
        truth = " ".join(dice.choices(DIGITS, k=dice.randint(2, 7)))
        voice = ("en-us", "en-gb")[number % 2]
        truths.append(truth)
        heard.append(" ".join(words(transcribe(client, say(truth, voice, dice.randint(130, 180))))))
    assert jiwer.wer(truths, heard) <= 0.05, list(zip(truths, heard, strict=True))


def test_the_text_changes_with_the_recording(client: openai.OpenAI) -> None:
    assert words(transcribe(client, say("one two three"))) == ["one", "two", "three"]
    assert words(transcribe(client, say("nine eight seven"))) == ["nine", "eight", "seven"]


def test_text_format_is_plain_text(system: System) -> None:
    reply = httpx.post(
        f"http://{system.http}/v1/audio/transcriptions",
        files={"file": ("speech.wav", say("four five six"))},
        data={"model": "demo-whisper", "response_format": "text", "language": "en"},
        timeout=60,
    )
    assert reply.headers["content-type"].startswith("text/plain")
    assert words(reply.text) == ["four", "five", "six"]


def test_what_is_not_audio_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="WAV"):
        transcribe(client, b"this is no recording")
