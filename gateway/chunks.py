"""The bytes of chat completion chunks, and the body of a whole completion.

One writer per request: what all its chunks share is encoded once, so that a token costs one small JSON string.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.tensors import ChatOutput


@dataclass
class Usage:
    """Token counts of one completion, summed over its responses."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    image: int = 0

    def add(self, output: ChatOutput) -> None:
        """The prompt's counts come with every response, the completion's are deltas."""
        self.prompt = max(self.prompt, output.num_input_tokens)
        self.cached = max(self.cached, output.num_cached_tokens)
        self.image = max(self.image, output.num_image_tokens)
        self.completion += output.num_output_tokens

    @property
    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "image_tokens": self.image},
        }


class ChunkWriter:
    """Writes `chat.completion.chunk` events of one choice; with `usage`, its counts ride on every chunk."""

    def __init__(self, completion_id: str, created: int, model: str, usage: Usage | None = None) -> None:
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        # Without its closing brace: every event goes on from here.
        self._head = b"data: " + orjson.dumps(head)[:-1]
        self._choice = self._head + b',"choices":[{"index":0,"delta":'
        self._content = self._choice + b'{"content":'
        self._end = b',"logprobs":null,"finish_reason":null}]'
        self._usage = usage

    def role(self) -> bytes:
        return self._choice + b'{"role":"assistant","content":""}' + self._end + self._tail()

    def content(self, text: str, logprobs: bytes = b"") -> bytes:
        """`logprobs` is the JSON list of the model, or empty."""
        if logprobs:
            wrapped = b'},"logprobs":{"content":' + logprobs + b'},"finish_reason":null}]'
            return self._content + orjson.dumps(text) + wrapped + self._tail()
        return self._content + orjson.dumps(text) + b"}" + self._end + self._tail()

    def finish(self, finish_reason: str, stop_reason: str) -> bytes:
        # OpenAI sends the end as a chunk of its own, with an empty delta. stop_reason is vLLM's addition.
        end = {"logprobs": None, "finish_reason": finish_reason, "stop_reason": stop_reason or None}
        return self._choice + b"{}," + orjson.dumps(end)[1:] + b"]" + self._tail()

    def usage(self, usage: Usage) -> bytes:
        return self._head + b',"choices":[],"usage":' + orjson.dumps(usage.body) + b"}\n\n"

    def _tail(self) -> bytes:
        if self._usage is None:
            return b"}\n\n"
        return b',"usage":' + orjson.dumps(self._usage.body) + b"}\n\n"


@dataclass
class Completion:
    """Collects the responses of one plain request."""

    completion_id: str
    created: int
    model: str
    usage: Usage = field(default_factory=Usage)
    texts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str = ""
    stop_reason: str = ""

    def add(self, output: ChatOutput) -> None:
        self.usage.add(output)
        self.texts.append(output.text)
        # A plain answer is written once, so this list may cost a parse; a stream hands the JSON on as it is.
        if output.logprobs:
            self.logprobs += orjson.loads(output.logprobs)
        self.finish_reason = output.finish_reason
        self.stop_reason = output.stop_reason

    def body(self, with_logprobs: bool) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(self.texts), "refusal": None},
            "logprobs": {"content": self.logprobs, "refusal": None} if with_logprobs else None,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason or None,
        }
        return {
            "id": self.completion_id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": self.usage.body,
        }
