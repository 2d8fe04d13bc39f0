"""The start tokens of a Whisper decoder, as NVIDIA's clients write them, in terms of the inputs of `whisper`."""

from __future__ import annotations

import re

from python_backends.errors import InvalidInput

DEFAULT_PREFIX = "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"
_PREFIX = re.compile(
    r"(?:<\|startofprev\|>(?P<prompt>.*?))?<\|startoftranscript\|>(?P<marks>(?:<\|[^|]*\|>)*)", re.DOTALL
)
_MARK = re.compile(r"<\|([^|]*)\|>")


def prefix_options(prefix: str) -> dict[str, bytes | bool]:
    """The start tokens of a Whisper decoder as options of `whisper`. Raises InvalidInput, naming TEXT_PREFIX."""
    found = _PREFIX.fullmatch(prefix.strip())
    if found is None:
        raise InvalidInput(f"must be the start tokens of a Whisper decoder, got {prefix[:100]!r}", "TEXT_PREFIX")
    marks = _MARK.findall(found["marks"])
    options: dict[str, bytes | bool] = {"timestamps": "notimestamps" not in marks}
    for mark in marks:
        if mark in ("transcribe", "translate"):
            options["task"] = mark.encode()
        elif mark != "notimestamps":
            options["language"] = mark.encode()
    if found["prompt"]:
        options["prompt"] = found["prompt"].encode()
    return options
