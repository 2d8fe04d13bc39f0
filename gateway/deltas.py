"""The pieces that a model's text is taken apart into: reasoning, content and tool calls. Knows no JSON of any API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CONTENT = "content"
REASONING = "reasoning"
# A call begins with its name; the arguments that follow are its own.
CALL = "call"
ARGUMENTS = "arguments"


class Delta(NamedTuple):
    kind: str
    text: str


def joined(deltas: Iterable[Delta]) -> list[Delta]:
    """Joins neighbours of one kind and leaves empty ones out; a call is never joined."""
    out: list[Delta] = []
    for delta in deltas:
        if out and out[-1].kind == delta.kind != CALL:
            out[-1] = Delta(delta.kind, out[-1].text + delta.text)
        elif delta.text:
            out.append(delta)
    return out


def num_held(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
