"""Tool calls of Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or later [TOOL_CALLS]name{...}.

The later models may also write [CALL_ID] and [ARGS] between the name and the arguments.
"""

from __future__ import annotations

import re
import secrets
import string

from gateway.tools.parser import ToolParser

_NAME = re.compile(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\]\s*)?(?=\{)")
_NOT_IN_HEAD = re.compile(r"[^\w.\-\[\]\s]")


class MistralParser(ToolParser):
    marker = "[TOOL_CALLS]"
    trigger = "[TOOL_CALLS]"
    call_begin = '[TOOL_CALLS][{"name": "NAME", "arguments": '
    call_end = "}]"

    def __init__(self) -> None:
        super().__init__()
        self._in_list = False
        self._alone = False

    def new_id(self) -> str:
        # Its chat templates refuse an id of any other form when it comes back with the result.
        return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))

    def _opened(self) -> bool:
        rest = self._text.lstrip()
        if not rest and not self._final:
            return False
        self._in_list, self._alone = rest.startswith("["), not rest.startswith(("[", "{"))
        if self._in_list:
            place = len(self._text) - len(rest) + 1
            self._lead, self._text = self._lead + self._text[:place], self._text[place:]
            return self._go(self._item)
        return self._go(self._named if self._alone else self._object)

    def _named(self) -> bool:
        odd = _NOT_IN_HEAD.search(self._text)
        if odd is None and not self._final:
            return False
        head = _NAME.match(self._text)
        if head is None:
            return self._no_call()
        self._begin_call(head[1])
        self._text = self._text[head.end() :]
        return self._go(self._arguments)

    def _behind_arguments(self) -> bool:
        # Behind a name the arguments stand alone; there is no object around them.
        return self._go(self._outside) if self._alone else super()._behind_arguments()

    def _item(self) -> bool:
        rest = self._text.lstrip(" \t\r\n,")
        if not rest and not self._final:
            return False
        if rest.startswith("{"):
            place = len(self._text) - len(rest)
            self._lead, self._text = self._lead + self._text[:place], rest
            return self._go(self._object)
        # An empty list asks for nothing, and stays text.
        if rest.startswith("]") and not self._lead:
            self._text = rest[1:]
            return self._go(self._outside)
        return self._no_call()

    def _after_call(self) -> bool:
        return self._go(self._item if self._in_list else self._outside)
