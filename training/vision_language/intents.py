"""Reads intents.toml and words.toml: what the demo model can say without a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomllib


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


_DATA, _WORDS = _read("intents.toml"), _read("words.toml")

# Name, wordings and the one answer.
FIXED: tuple[tuple[str, tuple[str, ...], str], ...] = tuple(
    (name, tuple(entry["ask"]), entry["answer"]) for name, entry in _DATA["fixed"].items()
)
# Wordings and answer with the slots <x> and <y>, and a table from x to y.
FACTS: tuple[tuple[tuple[str, ...], str, dict[str, str]], ...] = tuple(
    (tuple(entry["ask"]), entry["answer"], dict(pair.split(": ") for pair in entry["of"])) for entry in _DATA["fact"]
)
NO_PICTURE: str = _DATA["no_picture"]
UNKNOWN: str = _DATA["unknown"]
CANNOT_KNOW: str = _DATA["cannot_know"]
OFF_TOPIC: tuple[str, ...] = tuple(_WORDS["questions"]["off_topic"])
# System messages by the form of answer that they ask for.
SYSTEM: dict[str, tuple[str, ...]] = {name: tuple(texts) for name, texts in _WORDS["system"].items()}


def _words(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_WORDS["text"][name].split()))


WORDS, NAMES, PRINTED = _words("words"), _words("names"), _words("printed")
CITIES, GENRES, SONGS = _words("cities"), _words("genres"), _words("songs")
