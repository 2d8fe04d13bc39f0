"""/v1/completions, and the routes that count tokens."""

from __future__ import annotations

import asyncio
import json
from itertools import chain
from typing import Any

import openai
import pytest

from tests.fake_triton import Entry, Fail, FakeTriton, Hang, Received, token
from tests.gateway.conftest import Gateway
from tests.gateway.test_gateway_stream import events, settle

LOGPROBS = json.dumps(
    [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Ho", "logprob": -1.5}]}]
)


def prompt_of(received: Received) -> str:
    tensors = received.tensors
    return tensors["text_input"][0].decode() if "text_input" in tensors else str(tensors["input_ids"])


def say_the_prompt(received: Received) -> list[Any]:
    said = prompt_of(received)
    return [token(said), token("!", "stop"), token(said, sequence_index=1), token("?", "length", sequence_index=1)][
        : 2 * received.tensors.get("num_return_sequences", [1])[0]
    ]


async def test_plain_completion(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    completion = await client.completions.create(model="demo", prompt="Once", temperature=0, stop=["."])
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("Hello world", "stop")
    assert completion.object == "text_completion" and completion.id.startswith("cmpl-")
    assert completion.usage is not None and completion.usage.total_tokens == 9
    tensors = fake.requests[0].tensors
    assert tensors["text_input"] == [b"Once"] and tensors["stop_words"] == [b"."]
    assert tensors["max_tokens"] == [16], "OpenAI's default"


async def test_several_prompts_with_several_answers(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = say_the_prompt
    completion = await client.completions.create(model="demo", prompt=["a", "b"], n=2, echo=True)
    said = [(choice.index, choice.text, choice.finish_reason) for choice in completion.choices]
    assert said == [(0, "aa!", "stop"), (1, "aa?", "length"), (2, "bb!", "stop"), (3, "bb?", "length")]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (14, 8)
    assert len({received.request_id for received in fake.requests}) == 2


async def test_token_ids(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = say_the_prompt
    completion = await client.completions.create(model="demo", prompt=[[5, 6], [7]])
    assert [choice.text for choice in completion.choices] == ["[5, 6]!", "[7]!"]
    assert fake.requests[0].shapes["input_ids"] == [1, 2]
    assert (await client.completions.create(model="demo", prompt=[1, 2, 3])).choices[0].text == "[1, 2, 3]!"


async def test_streamed(gateway: Gateway, client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = say_the_prompt
    fields = {"prompt": ["a", "b"], "stream": True, "echo": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = events((await gateway.http.post("/v1/completions", json=fields | {"model": "demo"})).text)
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["total_tokens"] == 18
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    texts, reasons = ["", ""], [None, None]
    for choice in (chunk["choices"][0] for chunk in chunks):
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert (texts, reasons) == (["aa!", "bb!"], ["stop", "stop"])
    stream = await client.completions.create(model="demo", prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "a!"


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_have_their_old_shape(gateway: Gateway, fake: FakeTriton, stream: bool) -> None:
    fake.script = lambda received: [token("Hi", logprobs=LOGPROBS), token("Hi", "stop", logprobs=LOGPROBS)]
    body = {"prompt": "x", "logprobs": 1, "stream": stream}
    response = await gateway.http.post("/v1/completions", json=body)
    parts = events(response.text)[:-1] if stream else [response.json()]
    found = [part["choices"][0]["logprobs"] for part in parts]
    joined: dict[str, list[Any]] = {name: list(chain(*(lists[name] for lists in found))) for name in found[0]}
    assert joined == {
        "tokens": ["Hi", "Hi"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Ho": -1.5}, {"Ho": -1.5}],
        "text_offset": [0, 2],
    }
    tensors = fake.requests[0].tensors
    assert tensors["return_log_probs"] == [True]
    assert json.loads(tensors["sampling_parameters"][0]) == {"top_logprobs": 1}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 65}, "prompt", "invalid_value"),
        ({}, "prompt", "invalid_value"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported"),
        ({"prompt": "a", "best_of": 3}, "best_of", "unsupported"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo", "unsupported"),
        ({"prompt": [1], "echo": True}, "echo", "invalid_value"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": "a", "guided_regex": "a", "guided_json": {}}, "guided_regex", "invalid_value"),
    ],
)
async def test_refusals(gateway: Gateway, fields: dict[str, Any], param: str, code: str) -> None:
    response = await gateway.http.post("/v1/completions", json=fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


async def test_a_failing_prompt_fails_the_request(gateway: Gateway, fake: FakeTriton) -> None:
    def script(received: Received) -> list[Any]:
        return [Fail("[OUT_OF_RANGE] text_input: too long")] if prompt_of(received) == "b" else [token("a"), Hang()]

    fake.script = script
    response = await gateway.http.post("/v1/completions", json={"prompt": ["a", "b"]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    await asyncio.wait_for(fake.requests[0].cancelled.wait(), 10)
    await settle(gateway)


async def test_a_client_that_leaves_cancels_all_prompts(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), Hang()]
    body = {"prompt": ["a", "b", "c"], "stream": True}
    async with gateway.http.stream("POST", "/v1/completions", json=body) as response:
        await anext(response.aiter_raw())
        await asyncio.sleep(0.05)
    for received in fake.requests:
        await asyncio.wait_for(received.cancelled.wait(), 10)
    await settle(gateway)
    assert len(fake.requests) == 3


async def test_forms_and_dead_streams(gateway: Gateway, fake: FakeTriton) -> None:
    response = await gateway.http.post(
        "/v1/completions", json={"prompt": "a", "response_format": {"type": "json_object"}}
    )
    assert response.status_code == 200
    assert fake.requests[0].tensors["guided_decoding_guide_type"] == [b"json_schema"]
    fake.script = lambda received: [token("half")]
    assert (await gateway.http.post("/v1/completions", json={"prompt": "a"})).status_code == 502


async def test_counting_tokens(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [{"ids": [1, 2, 3], "count": 3, "text": "abc"}]
    response = await gateway.http.post("/tokenize", json={"prompt": "abc"})
    assert response.json() == {"count": 3, "max_model_len": 2048, "tokens": [1, 2, 3], "token_strs": None}
    received = fake.requests[-1]
    assert (received.model, received.tensors) == ("tokenizer", {"text": [b"abc"], "add_special_tokens": [True]})
    messages = [{"role": "user", "content": "hi"}]
    fields = {"messages": messages, "add_generation_prompt": False, "model": "demo"}
    assert (await gateway.http.post("/v1/tokenize", json=fields)).json()["count"] == 3
    assert json.loads(fake.requests[-1].tensors["messages"][0]) == messages
    assert fake.requests[-1].tensors["add_generation_prompt"] == [False]
    assert (await gateway.http.post("/detokenize", json={"tokens": [1, 2, 3]})).json() == {"prompt": "abc"}
    assert fake.requests[-1].tensors == {"input_ids": [1, 2, 3]}
    for conversation in ("abc", messages):
        counted = await gateway.http.post("/v1/count_tokens", json={"model": "demo", "conversation": conversation})
        assert counted.json() == {"model": "demo", "count": 3}
    await settle(gateway)


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        ("/tokenize", {}, "prompt", "invalid_value"),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}, "return_token_strs", "unsupported"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages.0.content", "missing_required"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0", "invalid_value"),
        ("/detokenize", {"tokens": [1], "model": "text"}, "model", "unsupported"),
        ("/v1/count_tokens", {}, "conversation", "invalid_value"),
        ("/v1/count_tokens", {"conversation": [{"role": "king"}]}, "conversation.0.role", "invalid_value"),
        (
            "/v1/count_tokens",
            {"conversation": [{"role": "user", "content": [{"type": "image", "image": "AAAA"}]}]},
            "conversation",
            "unsupported",
        ),
    ],
)
async def test_counting_refusals(
    gateway: Gateway, fake: FakeTriton, path: str, fields: dict[str, Any], param: str, code: str
) -> None:
    fake.entries["text"] = Entry({"task": "chat", "model": "another checkpoint"})
    await gateway.services.discovery.refresh()
    response = await gateway.http.post(path, json={"model": "demo", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


async def test_bad_ids_are_the_clients_fault(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [Fail("[INVALID_ARGUMENT] input_ids: 99 is not a token id")]
    error = (await gateway.http.post("/detokenize", json={"tokens": [99]})).json()["error"]
    assert (error["param"], error["message"]) == ("tokens", "tokens: 99 is not a token id")
