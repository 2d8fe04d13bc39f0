"""Streaming: the grammar of the chunks, faults in mid-stream, cancels, and models that die."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from tests.fake_triton import Fail, FakeTriton, Hang, Wait, token
from tests.gateway.conftest import Gateway, StartGateway


def events(text: str) -> list[Any]:
    """Parses a whole event stream; the end mark stays a string."""
    datas = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


async def test_chunk_grammar(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("He"), token(""), token("llo"), token("", "stop", stop_reason="END")]
    response = await gateway.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "He"},
        {"content": "llo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1]["choices"][0]["stop_reason"] == "END"
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert not any("usage" in chunk for chunk in chunks), "usage is never sent unasked"
    assert fake.requests[0].tensors["stream"] == [True]


async def test_usage_when_asked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello world"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 9
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_usage_on_every_chunk(gateway: Gateway) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, _ = events((await gateway.chat(stream=True, stream_options=options)).text)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 1, 2, 2, 2]


async def test_logprobs_ride_on_their_chunk(gateway: Gateway, fake: FakeTriton) -> None:
    logprobs = '[{"token":"x","logprob":-1}]'
    fake.script = lambda received: [token("", logprobs=logprobs), token("a", "stop", logprobs=logprobs)]
    *chunks, _ = events((await gateway.chat(stream=True, logprobs=True)).text)
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert found == [None, {"content": json.loads(logprobs)}, {"content": json.loads(logprobs)}, None]


async def test_events_are_not_held_back(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), Hang()]
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
        received = await asyncio.wait_for(anext(response.aiter_text()), 10)
    assert '"content":"a"' in received


@pytest.mark.parametrize("last", [Fail("[UNAVAILABLE] gone"), None, token("", "abort")])
async def test_error_in_mid_stream(gateway: Gateway, client: openai.AsyncOpenAI, fake: FakeTriton, last: Any) -> None:
    fake.script = lambda received: [token("half"), *([last] if last else [])]
    response = await gateway.chat(stream=True)
    assert response.status_code == 200
    *_, content, error = events(response.text)
    assert content["choices"][0]["delta"] == {"content": "half"}
    assert error["error"]["message"] and set(error["error"]) == {"message", "type", "param", "code"}
    assert "[DONE]" not in response.text
    stream = await client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


async def test_idle_streams_get_comments(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(keep_alive_s=0.05)
    fake.script = lambda received: [token("a"), Wait(0.2), token("b", "stop")]
    text = (await gateway.chat(stream=True)).text
    assert text.count(": keep-alive\n\n") >= 2
    assert events(text)[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[token("a"), Hang()], [Hang()], [token("a")] * 100_000])
async def test_client_that_leaves_cancels_the_generation(
    gateway: Gateway, fake: FakeTriton, stream: bool, script: list[Any]
) -> None:
    fake.script = lambda received: script
    asking = asyncio.ensure_future(read_some(gateway, stream))
    received = await fake.next_request()
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(received.cancelled.wait(), 10)
    assert not received.completed.is_set()
    await settle(gateway)
    assert await gateway.metric('trimodal_gateway_cancels_total{reason="client_gone"}') == 1


async def test_reader_that_stops_reading_and_leaves(gateway: Gateway, fake: FakeTriton) -> None:
    """The gateway waits in `send` then, not for Triton; the cancel must come all the same."""
    fake.script = lambda received: [token("x" * 10_000)] * 10_000
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
        await anext(response.aiter_raw())
        await asyncio.sleep(0.2)
    await asyncio.wait_for(fake.requests[0].cancelled.wait(), 10)
    await settle(gateway)


async def test_finished_generation_is_not_cancelled(gateway: Gateway, fake: FakeTriton) -> None:
    for stream in (False, True):
        await gateway.chat(stream=stream)
        await asyncio.wait_for(fake.requests[-1].completed.wait(), 10)
        await settle(gateway)
        assert not fake.requests[-1].cancelled.is_set()


@pytest.mark.parametrize("stream", [False, True])
async def test_dead_model_fails_its_open_streams(start_gateway: StartGateway, fake: FakeTriton, stream: bool) -> None:
    gateway = await start_gateway(watch_interval_s=0.05)
    fake.script = lambda received: [token("a"), Hang()]
    asking = asyncio.ensure_future(gateway.chat(stream=stream))
    received = await fake.next_request()
    await asyncio.sleep(0.1)
    fake.entries["llm"].state = "UNAVAILABLE"
    response = await asyncio.wait_for(asking, 10)
    if stream:
        error = events(response.text)[-1]["error"]
        assert "[DONE]" not in response.text
    else:
        error = response.json()["error"]
        assert response.status_code == 503 and response.headers["retry-after"]
    assert (error["type"], error["code"]) == ("service_unavailable", "model_unavailable")
    await asyncio.wait_for(received.cancelled.wait(), 10)
    assert await gateway.metric('trimodal_gateway_cancels_total{reason="model_down"}') == 1
    fake.entries["llm"].state = "READY"
    fake.script = lambda received: [token("back", "stop")]
    assert (await gateway.chat()).status_code == 200


async def test_death_of_another_model_harms_nobody(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(watch_interval_s=0.02)
    fake.script = lambda received: [token("a"), Wait(0.2), token("b", "stop")]
    asking = asyncio.ensure_future(gateway.chat())
    await fake.next_request()
    fake.entries["whisper"].state = "UNAVAILABLE"
    assert (await asking).status_code == 200


async def test_silent_model_times_out(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(watch_interval_s=0.02, stream_idle_s=0.1)
    fake.script = lambda received: [Hang()]
    response = await gateway.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    await asyncio.wait_for(fake.requests[0].cancelled.wait(), 10)


async def test_server_that_dies_ends_its_streams(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), Hang()]
    asking = asyncio.ensure_future(gateway.chat(stream=True))
    await fake.next_request()
    await asyncio.sleep(0.05)
    await fake.stop()
    response = await asyncio.wait_for(asking, 10)
    assert events(response.text)[-1]["error"]["type"] == "service_unavailable"


async def test_one_request_too_many_gets_429(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(max_concurrency=1)
    fake.script = lambda received: [token("a"), Wait(0.2), token("b", "stop")]
    first = asyncio.ensure_future(gateway.chat(stream=True))
    await fake.next_request()
    refused = await gateway.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert events((await first).text)[-1] == "[DONE]"
    assert (await gateway.chat()).status_code == 200


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}


async def read_some(gateway: Gateway, stream: bool) -> None:
    url, asked = gateway.base_url + "/v1/chat/completions", body(stream=stream)
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("POST", url, json=asked) as response,
    ):
        await response.aread()


async def settle(gateway: Gateway) -> None:
    """Waits at most ten seconds until no request holds anything."""
    for _ in range(2000):
        if not gateway.services.admission.running and repr(gateway.services.watch) == "<StreamWatch 0 open>":
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{gateway.services.admission} {gateway.services.watch}")
