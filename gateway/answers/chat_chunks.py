"""The bytes of chat completion chunks. What all chunks of a choice share is encoded once, so that a token costs one
small JSON string.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.answers.reader import AnswerFormat, ChoiceReader
from gateway.answers.replies import ChunkStream, Head
from gateway.answers.usage import Usage
from gateway.deltas import ARGUMENTS, CALL, REASONING, Delta
from gateway.tensors import ChatOutput


class ChatChunks(ChunkStream):
    """The events of one streamed chat: `opening`, a `frame` per response, and the counts at the end."""

    def __init__(
        self,
        head: Head,
        form: AnswerFormat,
        num: int,
        with_logprobs: bool,
        include_usage: bool,
        usage_on_chunks: bool,
    ) -> None:
        super().__init__(include_usage)
        self.usage = Usage(num, form.heard)
        self._head = head.event("chat.completion.chunk")
        on_chunks = self.usage if usage_on_chunks else None
        self._choices = [
            _Choice(ChunkWriter(self._head, index, on_chunks), form.reader(), with_logprobs) for index in range(num)
        ]

    def opening(self) -> bytes:
        return b"".join(choice.writer.role() for choice in self._choices)

    def frame(self, output: ChatOutput) -> bytes:
        choice = self._choices[output.choice]
        self.usage.add(output, choice.thinking)
        return choice.frame(output)

    def usage_event(self) -> bytes:
        return self._head + b',"choices":[],"usage":' + orjson.dumps(self.usage.body) + b"}\n\n"


class ChunkWriter:
    """Writes the events of one choice; with `usage`, its counts ride on every chunk. `head` lacks the closing brace."""

    def __init__(self, head: bytes, index: int, usage: Usage | None = None) -> None:
        # Without its closing brace: every event goes on from here.
        self._choice = head + b',"choices":[{"index":%d,"delta":' % index
        self._content = self._choice + b'{"content":'
        self._end = b',"logprobs":null,"finish_reason":null}]'
        self._usage = usage

    def role(self) -> bytes:
        return self.delta(b'{"role":"assistant","content":""}')

    def content(self, text: str, logprobs: bytes = b"") -> bytes:
        return self._content + orjson.dumps(text) + b"}" + self._after(logprobs)

    def reasoning(self, text: str, logprobs: bytes = b"") -> bytes:
        said = orjson.dumps(text)
        return self.delta(b'{"reasoning_content":' + said + b',"reasoning":' + said + b"}", logprobs)

    def call(self, index: int, call_id: str, name: str, logprobs: bytes = b"") -> bytes:
        return self._call({"index": index, **call_body(call_id, name, "")}, logprobs)

    def arguments(self, index: int, text: str, logprobs: bytes = b"") -> bytes:
        return self._call({"index": index, "function": {"arguments": text}}, logprobs)

    def delta(self, delta: bytes, logprobs: bytes = b"") -> bytes:
        """`logprobs` is the JSON list of the model, or empty."""
        return self._choice + delta + self._after(logprobs)

    def finish(self, finish_reason: str, stop_reason: str) -> bytes:
        # OpenAI sends the end as a chunk of its own, with an empty delta. stop_reason is vLLM's addition.
        end = {"logprobs": None, "finish_reason": finish_reason, "stop_reason": stop_reason or None}
        return self._choice + b"{}," + orjson.dumps(end)[1:] + b"]" + self._tail()

    def _call(self, call: dict[str, Any], logprobs: bytes) -> bytes:
        return self.delta(orjson.dumps({"tool_calls": [call]}), logprobs)

    def _after(self, logprobs: bytes) -> bytes:
        if logprobs:
            return b',"logprobs":{"content":' + logprobs + b'},"finish_reason":null}]' + self._tail()
        return self._end + self._tail()

    def _tail(self) -> bytes:
        if self._usage is None:
            return b"}\n\n"
        return b',"usage":' + orjson.dumps(self._usage.body) + b"}\n\n"


class _Choice:
    """One choice of a stream."""

    def __init__(self, writer: ChunkWriter, reader: ChoiceReader | None, with_logprobs: bool) -> None:
        self.writer = writer
        self._reader = reader
        self._with_logprobs = with_logprobs
        self._num_calls = 0

    @property
    def thinking(self) -> bool:
        return self._reader is not None and self._reader.thinking

    def frame(self, output: ChatOutput) -> bytes:
        """A token without text (half a character, a possible stop) makes no chunk, unless its logprobs are wanted."""
        logprobs = output.logprobs if self._with_logprobs else b""
        if self._reader is None:
            frame = self.writer.content(output.text, logprobs) if output.text or logprobs else b""
        else:
            frame = self._parts(self._reader.read(output.text, bool(output.finish_reason)), logprobs)
        if not output.finish_reason:
            return frame
        reason = self._reader.finish_reason(output.finish_reason) if self._reader else output.finish_reason
        return frame + self.writer.finish(reason, output.stop_reason)

    def _parts(self, deltas: list[Delta], logprobs: bytes) -> bytes:
        if not deltas:
            return self.writer.delta(b"{}", logprobs) if logprobs else b""
        # What was said is told once, with the first part of it.
        first, *more = deltas
        return self._part(first, logprobs) + b"".join(self._part(delta, b"") for delta in more)

    def _part(self, delta: Delta, logprobs: bytes) -> bytes:
        if delta.kind == CALL:
            assert self._reader is not None
            self._num_calls += 1
            return self.writer.call(self._num_calls - 1, self._reader.new_id(), delta.text, logprobs)
        if delta.kind == ARGUMENTS:
            return self.writer.arguments(self._num_calls - 1, delta.text, logprobs)
        if delta.kind == REASONING:
            return self.writer.reasoning(delta.text, logprobs)
        return self.writer.content(delta.text, logprobs)


def call_body(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
