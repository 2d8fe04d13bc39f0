"""/v1/messages with Anthropic's own client: blocks, named events, tools, counting, and errors in its form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic.types import message_count_tokens_params, message_create_params

from gateway.schemas import anthropic as schema
from gateway.schemas.anthropic import MessagesRequest
from tests.fake_triton import Entry, Fail, FakeTriton, Wait, token
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.test_gateway_responses import DATA_URL, PNG, wire
from tests.gateway.test_gateway_tools import CALL, guide, say

HI: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA_URL.split(",")[1]}}


@pytest.fixture(autouse=True)
def callers(fake: FakeTriton) -> None:
    fake.entries["hermes"] = Entry({"task": "chat", "tool_call_parser": "hermes"})
    fake.entries["qwen3"] = Entry({"task": "chat", "tool_call_parser": "hermes", "reasoning_parser": "qwen3"})


@pytest.fixture
async def claude(gateway: Gateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key="unused", max_retries=0) as opened:
        yield opened


async def test_a_text(claude: anthropic.AsyncAnthropic, fake: FakeTriton) -> None:
    # The client has no names for these any more; older ones and other servers' clients send them.
    drawn = {"temperature": 0.5, "top_k": 3}
    message = await claude.messages.create(
        model="demo", max_tokens=5, system="Be kind.", messages=HI, stop_sequences=["END"], extra_body=drawn
    )
    assert [(block.type, block.text) for block in message.content if block.type == "text"] == [("text", "Hello world")]
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == (
        "assistant",
        "demo",
        "end_turn",
        None,
    )
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 2, 2)
    tensors = fake.requests[0].tensors
    assert (tensors["max_tokens"], tensors["stop_words"], tensors["top_k"], tensors["temperature"]) == (
        [5],
        [b"END"],
        [3],
        [0.5],
    )
    assert wire(fake) == [{"role": "system", "content": "Be kind."}, *HI]


async def test_blocks_become_a_chat(claude: anthropic.AsyncAnthropic, fake: FakeTriton) -> None:
    url = {"type": "image", "source": {"type": "url", "url": DATA_URL}}
    system: Any = [
        {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "kind."},
    ]
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE, url]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I'll look."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bonn"}},
                {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "21 °C"},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
                {"type": "text", "text": "So?"},
            ],
        },
    ]
    await claude.messages.create(model="demo", max_tokens=5, system=system, messages=messages)
    assert fake.requests[0].tensors["image"] == [PNG, PNG]
    assert wire(fake) == [
        {"role": "system", "content": "Be\nkind."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}, {"type": "image"}]},
        {
            "role": "assistant",
            "content": "I'll look.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "21 °C", "tool_call_id": "c1"},
        {"role": "tool", "content": "Error: no", "tool_call_id": "c2"},
        {"role": "user", "content": "So?"},
    ]


async def test_the_events_of_a_text(gateway: Gateway) -> None:
    body = {"model": "demo", "max_tokens": 5, "messages": HI, "stream": True}
    raw = await gateway.http.post("/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"})
    pairs = [block.split("\n") for block in raw.text.strip().split("\n\n")]
    events = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]
    assert all(name == data["type"] for name, data in events)
    message = events[0][1].pop("message")
    assert (message["content"], message["stop_reason"], message["usage"]["input_tokens"]) == ([], None, 5)
    assert [data for _, data in events[1:]] == [
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " world"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 5,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 0,
                "output_tokens": 2,
            },
        },
        {"type": "message_stop"},
    ]


async def test_a_silent_stream_is_pinged(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(keep_alive_s=0.05)
    fake.script = lambda received: [token("a"), Wait(0.4), token("", "stop")]
    raw = await gateway.http.post(
        "/v1/messages", json={"max_tokens": 5, "messages": HI, "stream": True, "model": "demo"}
    )
    assert raw.text.count("event: ping") > 2 and ": keep-alive" not in raw.text


async def test_the_streaming_helper_gathers_thinking_text_and_calls(
    claude: anthropic.AsyncAnthropic, fake: FakeTriton
) -> None:
    say(fake, "Let me", " see.</think>\n\nI'll ", "look.\n", *CALL, CALL)
    async with claude.messages.stream(
        model="qwen3", max_tokens=50, messages=HI, tools=[WEATHER], thinking={"type": "adaptive"}
    ) as stream:
        message = await stream.get_final_message()
    blocks = [block.model_dump() for block in message.content]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert (blocks[0]["thinking"], blocks[1]["text"]) == ("Let me see.", "I'll look.")
    assert blocks[2]["input"] == blocks[3]["input"] == {"city": "Köln"} and blocks[2]["id"] != blocks[3]["id"]
    assert message.stop_reason == "tool_use"
    assert json.loads(fake.requests[0].tensors["chat_template_kwargs"][0])["enable_thinking"] is True
    plain = await claude.messages.create(
        model="qwen3", max_tokens=50, messages=HI, tools=[WEATHER], thinking={"type": "enabled", "budget_tokens": 1024}
    )
    assert [block.type for block in plain.content] == [block["type"] for block in blocks]
    say(fake, "hi")
    await claude.messages.create(model="qwen3", max_tokens=5, messages=HI, thinking={"type": "disabled"})
    assert json.loads(fake.requests[-1].tensors["chat_template_kwargs"][0])["enable_thinking"] is False


@pytest.mark.parametrize(
    ("choice", "forms"),
    [
        ({"type": "any"}, (True, False)),
        ({"type": "tool", "name": "weather"}, (True, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (True, True)),
        ({"type": "auto"}, None),
    ],
)
async def test_tool_choice(claude: anthropic.AsyncAnthropic, fake: FakeTriton, choice: Any, forms: Any) -> None:
    say(fake, CALL)
    message = await claude.messages.create(
        model="hermes", max_tokens=5, messages=HI, tools=[WEATHER], tool_choice=choice
    )
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Köln"}]
    if forms is None:
        assert "guided_decoding_guide" not in fake.requests[0].tensors
    else:
        assert (guide(fake)["at_least_one"], guide(fake)["stop_after_first"]) == forms
    told = json.loads(fake.requests[0].tensors["tools"][0])[0]["function"]
    assert told == {"name": "weather", "description": "of a city", "parameters": WEATHER["input_schema"]}


async def test_no_tools_wanted(claude: anthropic.AsyncAnthropic, fake: FakeTriton) -> None:
    say(fake, CALL)
    message = await claude.messages.create(
        model="hermes", max_tokens=5, messages=HI, tools=[WEATHER], tool_choice={"type": "none"}
    )
    assert [block.type for block in message.content] == ["text"] and "tools" not in fake.requests[0].tensors


async def test_why_it_ended(claude: anthropic.AsyncAnthropic, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), token("", "stop", stop_reason="END")]
    message = await claude.messages.create(model="demo", max_tokens=5, messages=HI, stop_sequences=["END"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    say(fake, CALL[: CALL.index("öln")], finish="length")
    cut = await claude.messages.create(model="hermes", max_tokens=5, messages=HI, tools=[WEATHER])
    assert cut.stop_reason == "max_tokens"
    assert [block.input for block in cut.content if block.type == "tool_use"] == [{"INVALID_JSON": '{"city": "K'}]


async def test_a_form(claude: anthropic.AsyncAnthropic, fake: FakeTriton) -> None:
    form: Any = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    await claude.messages.create(model="demo", max_tokens=5, messages=HI, output_config=form)
    assert fake.requests[0].tensors["guided_decoding_guide"] == [b'{"type":"object"}']


async def test_counting(claude: anthropic.AsyncAnthropic, fake: FakeTriton) -> None:
    fake.entries["tokenizer"].parameters["model"] = fake.entries["hermes"].parameters["model"] = "x"
    fake.script = lambda received: [{"ids": [1, 2, 3], "count": 3, "text": ""}]
    count = await claude.messages.count_tokens(model="hermes", system="Be kind.", messages=HI, tools=[WEATHER])
    assert count.input_tokens == 3
    assert wire(fake)[0] == {"role": "system", "content": "Be kind."}
    assert json.loads(fake.requests[0].tensors["tools"][0])[0]["function"]["name"] == "weather"
    with pytest.raises(anthropic.BadRequestError, match="images and videos are not counted"):
        await claude.messages.count_tokens(model="hermes", messages=[{"role": "user", "content": [IMAGE]}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "said"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"model": "x"}, 404, "not_found_error", "'x' does not exist"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, 400, "invalid_request_error", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_request_error", "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            400,
            "invalid_request_error",
            "messages.0.content.0.type",
        ),
        ({"temperature": 9}, 400, "invalid_request_error", "temperature"),
        ({"stop_sequences": [""]}, 400, "invalid_request_error", "stop_sequences"),
        ({"tools": [WEATHER]}, 400, "invalid_request_error", "calls no tools"),
        ({"tools": [WEATHER | {"name": "a b"}]}, 400, "invalid_request_error", "tools.0.name"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 400, "invalid_request_error", "tools.0.type"),
        ({"tool_choice": {"type": "some"}}, 400, "invalid_request_error", "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, 400, "invalid_request_error", "reasoning_parser"),
    ],
)
async def test_errors_have_anthropics_form(
    gateway: Gateway, fields: dict[str, Any], status: int, kind: str, said: str
) -> None:
    body = {"model": "demo", "max_tokens": 5, "messages": HI} | fields
    response = await gateway.http.post("/v1/messages", json=body)
    assert response.status_code == status, response.text
    answer = response.json()
    assert (answer["type"], answer["error"]["type"]) == ("error", kind) and said in answer["error"]["message"], answer


async def test_typed_errors(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(max_concurrency=1)
    fake.script = lambda received: [token("Hel"), Fail("[UNAVAILABLE] llm: gone")]
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key="x", max_retries=0) as claude:
        stream = await claude.messages.create(model="demo", max_tokens=5, messages=HI, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="gone"):
            _ = [event async for event in stream]
        with gateway.services.admission.acquire(), pytest.raises(anthropic.RateLimitError) as refused:
            await claude.messages.create(model="demo", max_tokens=5, messages=HI)
        assert refused.value.response.headers["retry-after"] == "1"


def test_every_field_of_the_official_client_is_known() -> None:
    known = {*MessagesRequest.model_fields, *schema._SHARED, *schema.NOT_SUPPORTED, *schema.IGNORED}
    for params in (message_create_params.MessageCreateParamsBase, message_count_tokens_params.MessageCountTokensParams):
        assert set(params.__annotations__) - known == set()
