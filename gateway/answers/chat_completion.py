"""The body of a whole chat completion, collected from the responses of the model."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.answers.chat_chunks import call_body
from gateway.answers.reader import AnswerFormat, ChoiceReader
from gateway.answers.replies import Head
from gateway.answers.usage import Usage
from gateway.deltas import ARGUMENTS, CALL, CONTENT, REASONING, Delta
from gateway.tensors import ChatOutput


class ChatCompletion:
    """Collects all choices of one plain chat."""

    def __init__(self, head: Head, form: AnswerFormat, num: int, with_logprobs: bool) -> None:
        self.usage = Usage(num, form.heard)
        self._head = head
        self._choices = [_Choice(index, form.reader(), with_logprobs) for index in range(num)]

    def add(self, output: ChatOutput) -> None:
        choice = self._choices[output.choice]
        self.usage.add(output, choice.thinking)
        choice.add(output)

    def body(self) -> dict[str, Any]:
        choices = [choice.body() for choice in self._choices]
        return self._head.body("chat.completion") | {"choices": choices, "usage": self.usage.body}


class _Choice:
    def __init__(self, index: int, reader: ChoiceReader | None, with_logprobs: bool) -> None:
        self._index = index
        self._reader = reader
        self._with_logprobs = with_logprobs
        self._texts: dict[str, list[str]] = {CONTENT: [], REASONING: []}
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[Any] = []
        self._finish_reason = self._stop_reason = ""

    @property
    def thinking(self) -> bool:
        return self._reader is not None and self._reader.thinking

    def add(self, output: ChatOutput) -> None:
        if self._reader is None:
            self._texts[CONTENT].append(output.text)
        else:
            for delta in self._reader.read(output.text, bool(output.finish_reason)):
                self._take(self._reader, delta)
        # A plain answer is written once, so this list may cost a parse; a stream hands the JSON on as it is.
        if output.logprobs and self._with_logprobs:
            self._logprobs += orjson.loads(output.logprobs)
        if output.finish_reason:
            reason = output.finish_reason
            self._finish_reason = self._reader.finish_reason(reason) if self._reader else reason
            self._stop_reason = output.stop_reason

    def body(self) -> dict[str, Any]:
        return {
            "index": self._index,
            "message": self._message(),
            "logprobs": {"content": self._logprobs, "refusal": None} if self._with_logprobs else None,
            "finish_reason": self._finish_reason,
            "stop_reason": self._stop_reason or None,
        }

    def _take(self, reader: ChoiceReader, delta: Delta) -> None:
        if delta.kind == CALL:
            self._calls.append(call_body(reader.new_id(), delta.text, ""))
        elif delta.kind == ARGUMENTS:
            self._calls[-1]["function"]["arguments"] += delta.text
        else:
            self._texts[delta.kind].append(delta.text)

    def _message(self) -> dict[str, Any]:
        content, reasoning = "".join(self._texts[CONTENT]), "".join(self._texts[REASONING])
        # An answer that is only calls, or only thinking, has no content; an empty one has an empty one.
        only_other = not content and (self._calls or reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": None if only_other else content, "refusal": None}
        if reasoning:
            message |= {"reasoning_content": reasoning, "reasoning": reasoning}
        return message | ({"tool_calls": self._calls} if self._calls else {})
