"""Spoken digits, made by espeak-ng when the test runs."""

from __future__ import annotations

import shutil
import subprocess

import pytest

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def say(text: str, voice: str = "en-us", speed: int = 150) -> bytes:
    """A 22,050 Hz WAV file. Skips the test where espeak-ng is not installed."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed; it speaks the sentences of this test")
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    return subprocess.run(command, check=True, capture_output=True).stdout


def words(text: str) -> list[str]:
    """The words of a transcript, lower case and without punctuation."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
