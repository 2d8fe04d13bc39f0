"""What the parsers of all tool call formats share: a small machine over text that comes piece by piece.

A state is a method. It looks at the text that nobody has taken yet, takes what it is sure of, and returns whether the
next state should look at once. It must decide by what the text says and never by where a piece ends: that is why the
answer is the same however the text is cut.

Until the name of a call is known its text is held back, and is content if it turns out to be no call. After that the
client has seen the call: what follows are its arguments, also when the model writes broken JSON.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import ClassVar

import orjson

from gateway.deltas import ARGUMENTS, CALL, CONTENT, Delta, joined, num_held
from gateway.tools.json_scanner import JsonScanner

# The usual order of keys: here the arguments can be passed on while they are written.
_HEAD = re.compile(
    r'\s*\{\s*(?:"(?:type|id)"\s*:\s*"[^"\\<]*"\s*,\s*)?"name"\s*:\s*"([\w.\-]+)"\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_FIRST_KEY = re.compile(r'\s*\{\s*"([^"\\]*)"')
_KEYS = ("name", "arguments", "parameters", "type", "id")


class ToolParser:
    """One choice of one answer: `push` its text, then `flush`. Subclasses say where calls begin and end."""

    # The text that opens a call and the text that closes it, if there is one.
    marker: ClassVar[str]
    closer: ClassVar[str] = ""
    # How a call is spelt from its beginning to its arguments, and after them; `trigger` begins `call_begin`.
    trigger: ClassVar[str]
    call_begin: ClassVar[str]
    call_end: ClassVar[str]

    def __init__(self) -> None:
        self._text = ""
        self._out: list[Delta] = []
        self._final = False
        self._state: Callable[[], bool] = self._outside
        self._scanner = JsonScanner()
        self._scanned = 0
        # What has been taken off the text for a call that may turn out to be none.
        self._lead = ""
        self._any_call = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self._state.__name__}, {len(self._text)} characters held>"

    def push(self, text: str) -> list[Delta]:
        self._text += text
        while self._state():
            pass
        out, self._out = self._out, []
        return joined(out)

    def flush(self) -> list[Delta]:
        """Says what was held back; nothing may be pushed after it."""
        self._final = True
        return self.push("")

    def new_id(self) -> str:
        """An id for a call, in the form that the model's chat template takes back."""
        return f"call_{uuid.uuid4().hex[:24]}"

    def _opened(self) -> bool:
        """The state right after `marker`: an object is a call."""
        rest = self._text.lstrip()
        if not rest and not self._final:
            return False
        return self._go(self._object) if rest.startswith("{") else self._no_call()

    def _after_call(self) -> bool:
        """The state after a call's object."""
        raise NotImplementedError

    def _no_call(self) -> bool:
        """What looked like a call is content; the search goes on behind its marker."""
        self._say(CONTENT, self._lead)
        self._lead = ""
        return self._go(self._outside)

    def _outside(self) -> bool:
        before, found, rest = self._text.partition(self.marker)
        if found:
            # Whitespace before a call is layout, and belongs to the call if there is one.
            content = before.rstrip()
            self._say(CONTENT, content)
            self._lead, self._text = before[len(content) :] + found, rest
            return self._go(self._opened)
        end = len(self._text)
        if not self._final:
            end = len(self._text[: end - num_held(self._text, self.marker)].rstrip())
        elif self._any_call and self._text.isspace():
            self._text = ""
        self._say(CONTENT, self._text[:end])
        self._text = self._text[end:]
        return False

    def _object(self) -> bool:
        """At the object of a call, {"name": ..., "arguments": {...}}."""
        if head := _HEAD.match(self._text):
            self._begin_call(head[1])
            self._text = self._text[head.end() :]
            return self._go(self._arguments)
        key = _FIRST_KEY.match(self._text)
        if key and key[1] not in _KEYS:
            return self._no_call()
        # Another order of keys, or arguments in a text: known only when all of it is there.
        self._scanned = self._scanner.push(self._text, self._scanned)
        if self._scanner.ended:
            return self._whole_object()
        return self._no_call() if self._scanner.broken or self._final else False

    def _whole_object(self) -> bool:
        call = _read_call(self._text[: self._scanned])
        if call is None:
            return self._no_call()
        self._begin_call(call[0])
        self._say(ARGUMENTS, call[1])
        self._text = self._text[self._scanned :]
        return self._go(self._after_call)

    def _arguments(self) -> bool:
        end = self._scanner.push(self._text)
        self._say(ARGUMENTS, self._text[:end])
        self._text = self._text[end:]
        if self._scanner.broken:
            return self._go(self._broken_arguments)
        return self._go(self._behind_arguments) if self._scanner.ended else False

    def _behind_arguments(self) -> bool:
        """The rest of the object around the arguments; a further key in it has no meaning to a client."""
        scanner = JsonScanner(depth=1)
        end = scanner.push(self._text)
        if scanner.ended:
            self._text = self._text[end:]
        return self._go(self._after_call) if scanner.ended or scanner.broken or self._final else False

    def _broken_arguments(self) -> bool:
        """No JSON: the arguments go on to the end of the call as the model writes them."""
        before, found, rest = self._text.partition(self.closer) if self.closer else (self._text, "", "")
        if found:
            self._say(ARGUMENTS, before)
            self._text = rest
            return self._go(self._outside)
        end = len(before) - (0 if self._final or not self.closer else num_held(before, self.closer))
        self._say(ARGUMENTS, before[:end])
        self._text = before[end:]
        return False

    def _begin_call(self, name: str) -> None:
        self._say(CALL, name)
        self._lead, self._any_call = "", True

    def _say(self, kind: str, text: str) -> None:
        self._out.append(Delta(kind, text))

    def _go(self, state: Callable[[], bool]) -> bool:
        self._state = state
        # Every state that scans begins with its own object.
        self._scanner, self._scanned = JsonScanner(), 0
        return True


def _read_call(text: str) -> tuple[str, str] | None:
    """Name and arguments of a whole object, or None when it is no call."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or not set(value) <= set(_KEYS):
        return None
    if not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    said = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return value["name"], said or "{}"
