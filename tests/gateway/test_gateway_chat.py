"""Chat completions: what the client asks is what `llm` gets, and what `llm` says is what the client reads."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from typing import Any

import openai
import pytest

from tests.fake_triton import Entry, Fail, FakeTriton, token
from tests.gateway.conftest import Gateway, StartGateway

RED, BLUE = b"red picture", b"blue picture"


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


async def test_plain_completion(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    completion = await client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=9
    )
    assert completion.choices[0].message.content == "Hello world"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "demo"
    assert completion.usage is not None and completion.usage.prompt_tokens_details is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 2)
    assert (completion.usage.total_tokens, completion.usage.prompt_tokens_details.cached_tokens) == (9, 2)
    received = fake.requests[0]
    assert received.model == "llm"
    assert json.loads(received.tensors["messages"][0]) == [{"role": "user", "content": "hi"}]
    assert {key: value for key, value in received.tensors.items() if key != "messages"} == {
        "max_tokens": [9],
        "stream": [False],
        "compact": [True],
    }


async def test_every_field_reaches_the_model(gateway: Gateway, fake: FakeTriton) -> None:
    fields = {
        "max_tokens": 5,
        "min_tokens": 1,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "seed": -1,
        "stop": ["a", "b"],
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 2,
        "min_p": 0.25,
        "logit_bias": {"5": -100},
        "stop_token_ids": [3],
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 2,
        "chat_template_kwargs": {"enable_thinking": False},
        "n": 1,
        "priority": -3,
        "cache_salt": "tenant",
        "timeout_s": 2.5,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "continue_final_message": True,
        "documents": [{"title": "t", "text": "x"}],
        "bad_words": ["c"],
    }
    logprobs = '[{"token":"Hi","bytes":[72,105],"logprob":-0.5,"top_logprobs":[]}]'
    fake.script = lambda received: [token("Hi", "stop", logprobs=logprobs)]
    harmless = {"user": "me", "tool_choice": "none", "response_format": {"type": "text"}, "made_up": 1}
    response = await gateway.chat(**fields, **harmless)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["logprobs"]["content"] == json.loads(logprobs)
    tensors = fake.requests[0].tensors
    expected = {"max_tokens": 5, "min_tokens": 1, "temperature": 0.0, "top_p": 0.5, "top_k": 0, "seed": 2**64 - 1}
    expected |= {"num_return_sequences": 1, "bad_words": b"c"}
    expected |= {"presence_penalty": 1.0, "frequency_penalty": -1.0, "repetition_penalty": 2.0}
    assert {name: tensors[name][0] for name in expected} == expected
    assert tensors["stop_words"] == [b"a", b"b"] and fake.requests[0].shapes["stop_words"] == [1, 2]
    assert tensors["return_log_probs"] == [True]
    assert json.loads(tensors["chat_template_kwargs"][0]) == {
        "enable_thinking": False,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "documents": [{"title": "t", "text": "x"}],
    }
    assert json.loads(tensors["sampling_parameters"][0]) == {
        "min_p": 0.25,
        "logit_bias": {"5": -100.0},
        "stop_token_ids": [3],
        "ignore_eos": True,
        "top_logprobs": 2,
        "priority": -3,
        "cache_salt": "tenant",
        "timeout_s": 2.5,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
    }


async def test_images_keep_their_order_and_place(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "look"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(RED), "detail": "low"}},
                {"type": "text", "text": "and"},
                {"type": "image_url", "image_url": base64.b64encode(BLUE).decode()},
            ],
        },
        {"role": "assistant", "content": "ok"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        {"role": "user", "content": [{"type": "image", "image": data_url(RED)}]},
    ]
    await client.chat.completions.create(model="demo-vl", messages=messages)
    received = fake.requests[0]
    assert received.tensors["image"] == [RED, BLUE, RED] and received.shapes["image"] == [1, 3]
    image = {"type": "image"}
    small = {**image, "max_pixels": 512 * 512}
    assert json.loads(received.tensors["messages"][0]) == [
        {"role": "system", "content": "look"},
        {"role": "user", "content": [small, {"type": "text", "text": "and"}, image]},
        {"role": "assistant", "content": "ok"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        {"role": "user", "content": [image]},
    ]


async def test_bad_request_is_a_400_that_names_the_field(gateway: Gateway, client: openai.AsyncOpenAI) -> None:
    for fields, param in (({"temperature": 3}, "temperature"), ({"n": 0}, "n"), ({"content": 5}, "messages.0.content")):
        response = await gateway.chat(**fields)
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="demo", messages=[])
    assert (caught.value.param, caught.value.code) == ("messages", "invalid_value")


async def test_bad_json(gateway: Gateway) -> None:
    for body in (b"", b"{", b"[]", b'{"a": "\\ud800"}', b"[" * 100_000, b"\xff"):
        response = await gateway.http.post("/v1/chat/completions", content=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_json"


async def test_echo_is_capped(gateway: Gateway) -> None:
    messages = [{"role": "x" * 10_000, "content": ""}] * 50
    response = await gateway.chat(messages=messages)
    assert response.status_code == 400
    assert len(response.content) < 5000


async def test_model_names(gateway: Gateway, fake: FakeTriton) -> None:
    assert (await gateway.chat(model=None)).json()["model"] == "demo-vl"
    assert (await gateway.chat(model="")).json()["model"] == "demo-vl"
    unknown = await gateway.chat(model="gpt-x")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    wrong_task = await gateway.chat(model="org/demo-speech")
    assert (wrong_task.status_code, wrong_task.json()["error"]["param"]) == (400, "model")
    fake.entries["llm2"] = Entry({"task": "chat", "input_modalities": "text"})
    await asyncio.sleep(0.06)
    found = await gateway.chat(model="llm2")
    assert found.status_code == 200, "a miss looks again, if nobody has just looked"
    refused = await gateway.chat([{"type": "image_url", "image_url": {"url": data_url(RED)}}], model="llm2")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported")
    ambiguous = await gateway.chat(model=None)
    assert (ambiguous.status_code, ambiguous.json()["error"]["param"]) == (400, "model")


FIRST_ERRORS = [
    ("[OUT_OF_RANGE] max_tokens: too long", 400, "max_completion_tokens", "context_length_exceeded"),
    ("[INVALID_ARGUMENT] image: not a picture", 400, "messages", "invalid_value"),
    ("[RESOURCE_EXHAUSTED] the queue is full", 429, None, "rate_limit_exceeded"),
    ("[UNAVAILABLE] vision cannot be reached", 503, None, "unavailable"),
    ("[DEADLINE_EXCEEDED] late", 504, None, "deadline_exceeded"),
    ("[INTERNAL] /a/secret.py", 500, None, "internal_error"),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_first_error_keeps_its_status(gateway: Gateway, fake: FakeTriton, stream: bool) -> None:
    for text, status, param, code in FIRST_ERRORS:
        fake.script = partial(lambda text, received: [Fail(text)], text)
        response = await gateway.chat(stream=stream, max_completion_tokens=5)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (status, param, code)
        assert ("retry-after" in response.headers) == (status in (429, 503))
        assert error["message"].startswith(f"{param}: " if param else "")
        assert "secret" not in response.text


async def test_stream_without_finish_reason_is_an_error(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("half")]
    response = await gateway.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")
    fake.script = lambda received: []
    assert (await gateway.chat(stream=True)).status_code == 502


async def test_videos_go_beside_images(gateway: Gateway, fake: FakeTriton, start_gateway: StartGateway) -> None:
    video = {"type": "video_url", "video_url": {"url": data_url(b"film")}, "fps": 1.5, "max_pixels": 9}
    picture = {"type": "image_url", "image_url": {"url": data_url(RED)}}
    refused = await gateway.chat([video])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported")
    assert "takes no videos" in refused.json()["error"]["message"]

    fake.entries["llm"].parameters["input_modalities"] = "text,image,video"
    gateway = await start_gateway(max_videos=1, max_video_bytes=100)
    assert (await gateway.chat([video, picture])).status_code == 200
    received = fake.requests[-1]
    assert (received.tensors["video"], received.tensors["image"]) == ([b"film"], [RED])
    [message] = json.loads(received.tensors["messages"][0])
    assert message["content"] == [{"type": "video", "fps": 1.5, "max_pixels": 9}, {"type": "image"}]
    assert "At most 1 videos" in (await gateway.chat([video, video])).json()["error"]["message"]
    large = {"type": "video_url", "video_url": data_url(b"x" * 200)}
    assert (await gateway.chat([large])).json()["error"]["message"].startswith("the video is larger than 100 bytes")


async def test_limits_refuse_at_the_door(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_body_bytes=2000, max_images=1, max_image_bytes=100)
    large = await gateway.chat("x" * 3000)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")

    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100_000

    # The whole of a large body is sent before a client reads, so the answer must outlive the refusal.
    assert (await gateway.http.post("/v1/chat/completions", content=chunks())).status_code == 413
    assert (await gateway.chat("x" * 10_000_000)).status_code == 413
    part = {"type": "image_url", "image_url": {"url": data_url(b"x" * 50)}}
    assert (await gateway.chat([part])).status_code == 200
    assert "At most 1 images" in (await gateway.chat([part, part])).json()["error"]["message"]
    part = {"type": "image_url", "image_url": {"url": data_url(b"x" * 200)}}
    assert (await gateway.chat([part])).json()["error"]["param"] == "messages.0.content.0.image_url.url"
    assert repr(gateway.services.admission) == "<Admission 0/256>"
