"""Who is asked for compact responses, and that nothing is counted wrongly where responses leave things out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_triton import Entry, FakeTriton, Received, token
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.test_gateway_stream import events

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": ["a", "b"]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": CHAT | {"max_tokens": 5},
    "/api/v1/inference/generate": {"prompt": "hi"},
}
WHOLE_USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 8,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 2, "image_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def news(text: str, index: int = 0) -> dict[str, Any]:
    """What `llm` sends between the first and the last response of a sequence."""
    return {"text_output": text, "num_output_tokens": 1} | ({"sequence_index": index} if index else {})


def two_answers(received: Received) -> list[Any]:
    answers = [[token(f"{index}a", sequence_index=index), news("b", index), news("c", index)] for index in (1, 0)]
    return [*answers[0], *answers[1], token("d", "stop", sequence_index=0), token("e", "stop", sequence_index=1)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
async def test_every_route_asks_for_it(gateway: Gateway, fake: FakeTriton, path: str, stream: bool) -> None:
    body = {"model": "demo", "stream": stream, **ROUTES[path]}
    assert (await gateway.http.post(path, json=body)).status_code == 200
    assert fake.requests and all(received.tensors["compact"] == [True] for received in fake.requests)


@pytest.mark.parametrize("steps", [(), ("image_frontend", "llm")])
async def test_an_entry_without_that_input_is_not_asked(
    start_gateway: StartGateway, fake: FakeTriton, steps: tuple[str, ...]
) -> None:
    fake.entries["other"] = Entry({"task": "chat", "served_model_name": "other"}, steps)
    gateway = await start_gateway()
    assert (await gateway.chat(model="other")).status_code == 200
    assert fake.requests[-1].model == "other" and "compact" not in fake.requests[-1].tensors


async def test_a_plain_answer_is_counted_whole(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = two_answers
    answer = (await gateway.chat(n=2)).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["0abcd", "1abce"]
    assert answer["usage"] == WHOLE_USAGE


async def test_the_counts_on_every_chunk_never_go_back(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = two_answers
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, _ = events((await gateway.chat(n=2, stream=True, stream_options=options)).text)
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {7}
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and chunks[-1]["usage"] == WHOLE_USAGE
    said = ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        said[choice["index"]] += choice["delta"].get("content", "")
    assert said == ["0abcd", "1abce"]


async def test_what_is_told_of_the_cache_by_anthropics_route_stays(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), news("b"), token("c", "stop")]
    response = await gateway.http.post("/v1/messages", json={"model": "demo", **ROUTES["/v1/messages"]})
    usage = response.json()["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (5, 2, 3)
