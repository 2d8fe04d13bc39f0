"""The answers of /api/v1/inference/generate: a text and its usage, or pieces of text."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.answers.replies import ChunkStream
from gateway.answers.usage import Usage
from gateway.tensors import ChatOutput


class Generated:
    """Collects one answer of `model`."""

    def __init__(self, model: str) -> None:
        self.usage = Usage()
        self._model = model
        self._texts: list[str] = []
        self._finish_reason = ""

    def add(self, output: ChatOutput) -> None:
        self.usage.add(output)
        self._texts.append(output.text)
        self._finish_reason = output.finish_reason

    def body(self) -> dict[str, Any]:
        text = "".join(self._texts)
        return {"text": text, "usage": self.usage.body, "finish_reason": self._finish_reason, "model": self._model}


class GeneratedEvents(ChunkStream):
    """Pieces of the text; the last event has none, and says why the answer ended."""

    def __init__(self) -> None:
        super().__init__(include_usage=False)

    def opening(self) -> bytes:
        return b""

    def frame(self, output: ChatOutput) -> bytes:
        said = _event(output.text, None) if output.text else b""
        return said + (_event("", output.finish_reason) if output.finish_reason else b"")


def _event(text: str, finish_reason: str | None) -> bytes:
    return b"data: " + orjson.dumps({"text": text, "finish_reason": finish_reason}) + b"\n\n"
