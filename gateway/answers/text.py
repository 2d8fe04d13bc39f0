"""The answers of /v1/completions: plain text, as events or as one body, with log probabilities in their old shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.answers.replies import ChunkStream, Head
from gateway.answers.usage import Usage
from gateway.tensors import ChatOutput

_KIND = "text_completion"


class OldLogprobs:
    """Turns the model's list into parallel lists; offsets are in characters from the beginning of the choice's text."""

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset
        self.lists: dict[str, list[Any]] = _no_logprobs()

    def add(self, logprobs: bytes) -> dict[str, list[Any]]:
        """Returns the lists of these tokens alone."""
        new = _no_logprobs()
        for token in orjson.loads(logprobs):
            new["tokens"].append(token["token"])
            new["token_logprobs"].append(token["logprob"])
            new["top_logprobs"].append({other["token"]: other["logprob"] for other in token.get("top_logprobs", ())})
            new["text_offset"].append(self._offset)
            self._offset += len(token["token"])
        for name, values in new.items():
            self.lists[name] += values
        return new


class TextCompletion:
    """Collects one plain request; `echoes` holds, for each choice, the text that is said before the model's."""

    def __init__(self, head: Head, num_per_prompt: int, echoes: Sequence[str], with_logprobs: bool) -> None:
        self.usage = Usage(num_per_prompt)
        self._head = head
        self._texts = [[echo] for echo in echoes]
        self._logprobs = [OldLogprobs(len(echo)) for echo in echoes]
        self._with_logprobs = with_logprobs
        self._ends = [("", "")] * len(echoes)

    def add(self, output: ChatOutput) -> None:
        self.usage.add(output)
        self._texts[output.choice].append(output.text)
        if output.logprobs and self._with_logprobs:
            self._logprobs[output.choice].add(output.logprobs)
        if output.finish_reason:
            self._ends[output.choice] = (output.finish_reason, output.stop_reason)

    def body(self) -> dict[str, Any]:
        choices = [self._choice(index) for index in range(len(self._texts))]
        return self._head.body(_KIND) | {"choices": choices, "usage": self.usage.body}

    def _choice(self, index: int) -> dict[str, Any]:
        logprobs = self._logprobs[index].lists if self._with_logprobs else None
        return _choice_body(index, "".join(self._texts[index]), logprobs, *self._ends[index])


class TextChunks(ChunkStream):
    """The events of one streamed request; every choice begins with its echo, if there is one."""

    def __init__(
        self,
        head: Head,
        num_per_prompt: int,
        echoes: Sequence[str],
        with_logprobs: bool,
        include_usage: bool,
        usage_on_chunks: bool,
    ) -> None:
        super().__init__(include_usage)
        self.usage = Usage(num_per_prompt)
        self._head = head.event(_KIND)
        self._echoes = echoes
        self._logprobs = [OldLogprobs(len(echo)) for echo in echoes]
        self._with_logprobs = with_logprobs
        self._usage_on_chunks = usage_on_chunks

    def opening(self) -> bytes:
        return b"".join(self._event(index, echo, None) for index, echo in enumerate(self._echoes) if echo)

    def frame(self, output: ChatOutput) -> bytes:
        self.usage.add(output)
        wanted = output.logprobs if self._with_logprobs else b""
        logprobs = self._logprobs[output.choice].add(wanted) if wanted else None
        if not output.text and not output.finish_reason and not wanted:
            return b""
        return self._event(output.choice, output.text, logprobs, output.finish_reason, output.stop_reason)

    def usage_event(self) -> bytes:
        return self._head + b',"choices":[],"usage":' + orjson.dumps(self.usage.body) + b"}\n\n"

    def _event(self, index: int, text: str, logprobs: dict[str, list[Any]] | None, *end: str) -> bytes:
        event = self._head + b',"choices":[' + orjson.dumps(_choice_body(index, text, logprobs, *end)) + b"]"
        if self._usage_on_chunks:
            event += b',"usage":' + orjson.dumps(self.usage.body)
        return event + b"}\n\n"


def _no_logprobs() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _choice_body(
    index: int, text: str, logprobs: dict[str, list[Any]] | None, finish_reason: str = "", stop_reason: str = ""
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason or None,
        "stop_reason": stop_reason or None,
    }
