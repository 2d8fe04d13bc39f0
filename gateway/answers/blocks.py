"""One answer as blocks in order: thinking, text and tool calls, as the Responses and the Messages API tell them.

Knows neither API: it says when a block begins, goes on and ends, and keeps what was said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from gateway.answers.reader import AnswerFormat
from gateway.answers.usage import Usage
from gateway.deltas import ARGUMENTS, CALL, CONTENT, Delta
from gateway.tensors import ChatOutput


@dataclass
class Block:
    """`kind` is CONTENT, REASONING or CALL; `text` is what was said so far, of a call its arguments."""

    kind: str
    index: int
    call_id: str = ""
    name: str = ""
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)


class Step(NamedTuple):
    """`text` and `logprobs` are new with this step."""

    what: Literal["begin", "text", "end"]
    block: Block
    text: str = ""
    logprobs: tuple[Any, ...] = ()


class AnswerBlocks:
    """The single choice of one answer. Between `read`s at most the last block is open."""

    def __init__(self, form: AnswerFormat, with_logprobs: bool = False) -> None:
        self.usage = Usage(heard=form.heard)
        self.blocks: list[Block] = []
        self.finish_reason = self.stop_reason = ""
        self._reader = form.reader()
        self._with_logprobs = with_logprobs
        # Of tokens whose text is held back: they go with the next text.
        self._logprobs: list[Any] = []
        self._open: Block | None = None

    def __repr__(self) -> str:
        return f"<AnswerBlocks {[block.kind for block in self.blocks]} {self.finish_reason or 'open'}>"

    def read(self, output: ChatOutput) -> list[Step]:
        final = bool(output.finish_reason)
        self.usage.add(output, self._reader is not None and self._reader.thinking)
        if self._with_logprobs and output.logprobs:
            self._logprobs += orjson.loads(output.logprobs)
        deltas = [Delta(CONTENT, output.text)] if self._reader is None else self._reader.read(output.text, final)
        steps = [step for delta in deltas if delta.text for step in self._take(delta)]
        if final:
            reason = output.finish_reason
            self.finish_reason = self._reader.finish_reason(reason) if self._reader else reason
            self.stop_reason = output.stop_reason
            steps += self._close()
        return steps

    def _take(self, delta: Delta) -> list[Step]:
        if delta.kind == CALL:
            assert self._reader is not None
            return self._begin(Block(CALL, len(self.blocks), self._reader.new_id(), delta.text))
        begun: list[Step] = []
        if delta.kind != ARGUMENTS and (self._open is None or self._open.kind != delta.kind):
            begun = self._begin(Block(delta.kind, len(self.blocks)))
        assert self._open is not None
        return [*begun, self._say(self._open, delta.text)]

    def _begin(self, block: Block) -> list[Step]:
        ended = self._close()
        self.blocks.append(block)
        self._open = block
        return [*ended, Step("begin", block)]

    def _say(self, block: Block, text: str) -> Step:
        block.text += text
        logprobs, self._logprobs = tuple(self._logprobs), []
        block.logprobs += logprobs
        return Step("text", block, text, logprobs)

    def _close(self) -> list[Step]:
        block, self._open = self._open, None
        return [] if block is None else [Step("end", block)]
