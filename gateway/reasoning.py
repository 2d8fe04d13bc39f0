"""Splits the thinking of a model off its answer, where the thinking stands between <think> and </think>.

Many chat templates open the thinking themselves, so the text that arrives begins inside it and only the end is marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.deltas import CONTENT, REASONING, Delta, joined, num_held

OPEN, CLOSE = "<think>", "</think>"


class ReasoningFormat(NamedTuple):
    """`switch` is the template's argument that turns thinking on and off, if it has one; `default` is its value."""

    switch: str | None
    default: bool

    def starts_thinking(self, template_arguments: Mapping[str, Any]) -> bool:
        return bool(template_arguments.get(self.switch or "", self.default))

    def switched(self, on: bool) -> dict[str, bool]:
        return {} if self.switch is None else {self.switch: on}


# By the name in the model's parameter `reasoning_parser`.
FORMATS = {
    "deepseek_r1": ReasoningFormat(None, True),
    "deepseek_v3": ReasoningFormat("thinking", False),
    "qwen3": ReasoningFormat("enable_thinking", True),
}


class ThinkSplitter:
    """One choice of one answer. Whitespace around the thinking, and before the answer behind it, is dropped."""

    def __init__(self) -> None:
        self.thinking = True
        self._text = ""
        self._opened = False
        # Nothing has been said yet in this part, so whitespace is still layout.
        self._fresh = True

    def __repr__(self) -> str:
        return f"<ThinkSplitter {'thinking' if self.thinking else 'answering'}, {len(self._text)} characters held>"

    def push(self, text: str, final: bool = False) -> list[Delta]:
        """`final` also says what was held back."""
        self._text += text
        out: list[Delta] = []
        if self.thinking:
            out.append(Delta(REASONING, self._reasoning(final)))
        if not self.thinking:
            out.append(Delta(CONTENT, self._stripped(self._text)))
            self._text = ""
        return joined(out)

    def _reasoning(self, final: bool) -> str:
        if not self._opened:
            text = self._text.lstrip()
            if OPEN.startswith(text) and not final:
                return ""
            self._text, self._opened = text.removeprefix(OPEN), True
        before, found, rest = self._text.partition(CLOSE)
        if found:
            said = self._stripped(before.rstrip())
            self.thinking, self._fresh, self._text = False, True, rest
            return said
        end = len(before) if final else len(before[: len(before) - num_held(before, CLOSE)].rstrip())
        self._text = before[end:]
        return self._stripped(before[:end])

    def _stripped(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text
