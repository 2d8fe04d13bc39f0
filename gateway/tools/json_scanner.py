"""Finds the end of a JSON object in text that comes in pieces. Checks brackets, strings and alphabet, no grammar."""

from __future__ import annotations

import re

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r"[\s\w+\-.,:]*", re.ASCII)


class JsonScanner:
    """Starts before an object, or `depth` objects deep. `ended` and `broken` say why it takes no more text."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.ended = False
        self.broken = False
        self._in_string = False
        self._escaped = False

    def __repr__(self) -> str:
        state = "ended" if self.ended else "broken" if self.broken else "open"
        return f"<JsonScanner {state} at depth {self.depth}>"

    def push(self, text: str, start: int = 0) -> int:
        """Returns where the object ends or breaks in `text`, read from `start`; else the length of `text`."""
        place = start
        while place < len(text) and not self.ended and not self.broken:
            place = self._string(text, place) if self._in_string else self._structure(text, place)
        return place

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            return place + 1
        found = _IN_STRING.match(text, place)
        assert found
        end = found.end()
        if end < len(text):
            self._escaped = text[end] == "\\"
            self._in_string = self._escaped
        return end + 1 if end < len(text) else end

    def _structure(self, text: str, place: int) -> int:
        found = _BETWEEN.match(text, place)
        assert found
        end = found.end()
        if end == len(text):
            return end
        char = text[end]
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self.depth += 1
        elif char in "}]":
            self.depth -= 1
            self.ended = self.depth <= 0
        else:
            self.broken = True
            return end
        return end + 1
