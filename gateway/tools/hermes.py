"""Tool calls of Hermes and Qwen: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, one after another."""

from __future__ import annotations

from gateway.tools.parser import ToolParser


class HermesParser(ToolParser):
    marker = "<tool_call>"
    closer = "</tool_call>"
    trigger = "<tool_call>"
    call_begin = '<tool_call>\n{"name": "NAME", "arguments": '
    call_end = "}\n</tool_call>"

    def _after_call(self) -> bool:
        rest = self._text.lstrip()
        if rest.startswith(self.closer):
            self._text = rest[len(self.closer) :]
        elif self.closer.startswith(rest) and not self._final:
            return False
        # A model that forgets the end mark has still made its call.
        return self._go(self._outside)
