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
    (tuple(entry["ask"]), entry["answer"], dict(pair.split(": ") for pair in entry["of"]))
    for entry in _DATA["fact"]
)
NO_PICTURE: str = _DATA["no_picture"]
UNKNOWN: str = _DATA["unknown"]
OFF_TOPIC: tuple[str, ...] = tuple(_WORDS["off_topic"])
SYSTEM: tuple[str, ...] = tuple(_WORDS["system"])
WORDS: tuple[str, ...] = tuple(_WORDS["words"].split())
NAMES: tuple[str, ...] = tuple(_WORDS["names"].split())
