"""The answer of /v1/messages: Anthropic's message object, as one body or as its named events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.answers.blocks import AnswerBlocks, Block, Step
from gateway.answers.reader import AnswerFormat
from gateway.answers.replies import Head
from gateway.deltas import CALL, CONTENT
from gateway.errors import GatewayError
from gateway.tensors import ChatOutput

# OpenAI's word for the end of an answer -> Anthropic's.
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


class MessageBody:
    """Collects one answer; `stop_sequences` are the client's."""

    def __init__(self, head: Head, form: AnswerFormat, stop_sequences: Sequence[str]) -> None:
        self.answer = AnswerBlocks(form)
        self._head = head
        self._stop_sequences = stop_sequences

    def add(self, output: ChatOutput) -> list[Step]:
        return self.answer.read(output)

    def body(self) -> dict[str, Any]:
        return self.message() | {"content": [_content(block) for block in self.answer.blocks]} | self.end()

    def message(self) -> dict[str, Any]:
        """The message before there is anything in it."""
        return {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self.usage(),
        }

    def end(self) -> dict[str, Any]:
        stopped_by = self.answer.stop_reason
        if self.answer.finish_reason == "stop" and stopped_by in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
        return {"stop_reason": _STOP_REASONS.get(self.answer.finish_reason, "end_turn"), "stop_sequence": None}

    def usage(self) -> dict[str, Any]:
        """Here, unlike at OpenAI, tokens from the cache are not among the input tokens."""
        usage = self.answer.usage
        return {
            "input_tokens": usage.prompt - usage.cached,
            "cache_read_input_tokens": usage.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": usage.completion,
        }


class MessageEvents:
    """The events of one streamed answer; `ping` keeps a silent one alive."""

    keep_alive = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, body: MessageBody) -> None:
        self._body = body

    def opening(self) -> bytes:
        return _event("message_start", message=self._body.message()) + self.keep_alive

    def frame(self, output: ChatOutput) -> bytes:
        return b"".join(_step(step) for step in self._body.add(output))

    def closing(self) -> bytes:
        delta = _event("message_delta", delta=self._body.end(), usage=self._body.usage())
        return delta + _event("message_stop")

    def failed(self, error: GatewayError) -> bytes:
        return b"event: error\ndata: " + orjson.dumps(error.messages_body) + b"\n\n"


def _content(block: Block, empty: bool = False) -> dict[str, Any]:
    if block.kind == CALL:
        return {
            "type": "tool_use",
            "id": block.call_id,
            "name": block.name,
            "input": {} if empty else _input(block.text),
        }
    text = "" if empty else block.text
    if block.kind == CONTENT:
        return {"type": "text", "text": text, "citations": None}
    return {"type": "thinking", "thinking": text, "signature": ""}


def _input(arguments: str) -> dict[str, Any]:
    """Broken JSON goes under the key that Anthropic's documents name for it."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


def _step(step: Step) -> bytes:
    index = step.block.index
    if step.what == "begin":
        return _event("content_block_start", index=index, content_block=_content(step.block, empty=True))
    if step.what == "end":
        return _event("content_block_stop", index=index)
    if step.block.kind == CALL:
        delta = {"type": "input_json_delta", "partial_json": step.text}
    elif step.block.kind == CONTENT:
        delta = {"type": "text_delta", "text": step.text}
    else:
        delta = {"type": "thinking_delta", "thinking": step.text}
    return _event("content_block_delta", index=index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + orjson.dumps({"type": kind, **fields}) + b"\n\n"
