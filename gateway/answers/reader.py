"""Takes the text of one choice apart: thinking first, then tool calls in what remains."""

from __future__ import annotations

from typing import NamedTuple

from gateway.answers.usage import Heard
from gateway.deltas import ARGUMENTS, CALL, CONTENT, Delta
from gateway.reasoning import ThinkSplitter
from gateway.tools.parser import ToolParser


class ChoiceReader:
    """`max_calls` bounds the calls that are passed on; the text of further ones is dropped, as the client asked."""

    def __init__(self, splitter: ThinkSplitter | None, parser: ToolParser | None, max_calls: int | None) -> None:
        self.num_calls = 0
        self._splitter = splitter
        self._parser = parser
        self._max_calls = max_calls

    def __repr__(self) -> str:
        return f"<ChoiceReader {self._splitter} {self._parser} {self.num_calls} calls>"

    @property
    def thinking(self) -> bool:
        return self._splitter is not None and self._splitter.thinking

    def read(self, text: str, final: bool) -> list[Delta]:
        """`final` also gives what was held back."""
        deltas = [Delta(CONTENT, text)] if self._splitter is None else self._splitter.push(text, final)
        if self._parser is None:
            return deltas
        out: list[Delta] = []
        for delta in deltas:
            out += self._parser.push(delta.text) if delta.kind == CONTENT else (delta,)
        if final:
            out += self._parser.flush()
        return [delta for delta in out if self._wanted(delta)]

    def finish_reason(self, reason: str) -> str:
        """OpenAI's word for an answer that ends because the model wants its calls made."""
        return "tool_calls" if self.num_calls and reason == "stop" else reason

    def new_id(self) -> str:
        return "" if self._parser is None else self._parser.new_id()

    def _wanted(self, delta: Delta) -> bool:
        self.num_calls += delta.kind == CALL
        called = delta.kind in (CALL, ARGUMENTS)
        return not called or self._max_calls is None or self.num_calls <= self._max_calls


class AnswerFormat(NamedTuple):
    """How the answers to one request are read; by default as they are. `heard` goes into their usage."""

    thinking: bool = False
    parser: type[ToolParser] | None = None
    max_calls: int | None = None
    heard: Heard | None = None

    @property
    def is_plain(self) -> bool:
        """Every text is content."""
        return not self.thinking and self.parser is None

    def reader(self) -> ChoiceReader | None:
        """A reader for one choice; None where there is nothing to find, so that such a stream pays nothing."""
        if self.is_plain:
            return None
        splitter = ThinkSplitter() if self.thinking else None
        return ChoiceReader(splitter, self.parser() if self.parser else None, self.max_calls)
