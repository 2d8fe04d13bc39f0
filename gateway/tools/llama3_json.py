"""Tool calls of Llama 3.1 and later: the answer is {"name": ..., "parameters": {...}}, perhaps behind <|python_tag|>.

Several calls follow each other with a semicolon between. Nothing marks a call inside other text, so only an answer that
begins with one is read as calls.
"""

from __future__ import annotations

import re

from gateway.deltas import CONTENT
from gateway.tools.parser import ToolParser

_SEPARATOR = re.compile(r"\s*[;,]?\s*")


class Llama3JsonParser(ToolParser):
    marker = "<|python_tag|>"
    trigger = '{"name": '
    call_begin = '{"name": "NAME", "parameters": '
    call_end = "}"

    def __init__(self) -> None:
        super().__init__()
        self._state = self._start

    def _start(self) -> bool:
        rest = self._text.lstrip()
        if rest.startswith(self.marker):
            place = len(self._text) - len(rest) + len(self.marker)
            self._lead, self._text = self._text[:place], self._text[place:]
            return self._go(self._opened)
        if self.marker.startswith(rest) and not self._final:
            return False
        return self._go(self._object) if rest.startswith("{") else self._no_call()

    def _after_call(self) -> bool:
        found = _SEPARATOR.match(self._text)
        assert found
        if found.end() == len(self._text):
            # Between calls, or behind the last: layout, unless other text follows.
            self._text = "" if self._final and self._text.isspace() else self._text
            return self._no_call() if self._final else False
        if self._text[found.end()] != "{":
            return self._no_call()
        self._lead, self._text = self._text[: found.end()], self._text[found.end() :]
        return self._go(self._object)

    def _no_call(self) -> bool:
        self._say(CONTENT, self._lead)
        self._lead = ""
        return self._go(self._content)

    def _content(self) -> bool:
        self._say(CONTENT, self._text)
        self._text = ""
        return False
