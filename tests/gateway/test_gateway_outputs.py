"""Several generations read as one, with sources that are all ready at once."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from gateway.answers.outputs import Generation, Outputs
from gateway.limits import Admission


class Source:
    """What `Generation` asks of a TritonStream."""

    def __init__(self, texts: str) -> None:
        self.finished = False
        self._responses = [_response(text, last=place == len(texts) - 1) for place, text in enumerate(texts)]

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> dict[str, bytes]:
        await asyncio.sleep(0)
        if not self._responses:
            raise StopAsyncIteration
        return self._responses.pop(0)


@pytest.mark.parametrize("said", [["a", "b", "c"], ["ab", "cd", "e"]])
async def test_no_response_is_lost_when_all_end_at_once(said: list[str]) -> None:
    admission = Admission(1)
    sources: list[Any] = [Source(text) for text in said]
    outputs = Outputs([Generation(source, 1, index) for index, source in enumerate(sources)], admission.acquire(), {})
    texts = [""] * len(said)
    await outputs.peek()
    while outputs.num_open:
        assert admission.running == 1
        # Every generation may end now, before its response is asked for.
        await asyncio.sleep(0.01)
        output = await outputs.next()
        texts[output.choice] += output.text
    assert texts == said
    assert admission.running == 0 and all(source.finished for source in sources)
    assert repr(outputs) == f"<Outputs {len(''.join(said))} read, 0 choices open>"


async def test_tokens_of_the_prompt_are_counted_when_the_client_leaves_in_between() -> None:
    source: Any = Source("abcd")
    source._responses[0]["num_input_tokens"] = struct.pack("<i", 7)
    for response in source._responses:
        response["num_output_tokens"] = struct.pack("<i", 1)
    outputs = Outputs([Generation(source, 1, 0)], Admission(1).acquire(), {})
    await outputs.peek()
    assert outputs.num_tokens == 8
    for _ in range(3):
        await outputs.next()
    assert outputs.num_tokens == 10, "no response but the first one has said how long the prompt is"


def _response(text: str, last: bool) -> dict[str, bytes]:
    finish = b"stop" if last else b""
    return {
        "text_output": struct.pack("<I", len(text)) + text.encode(),
        "finish_reason": struct.pack("<I", len(finish)) + finish,
    }
