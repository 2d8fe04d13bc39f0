"""/v1/responses with the official client: items in and out, typed events, forms, tools, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest
from openai.types.responses import response_create_params
from pydantic import BaseModel

from gateway.schemas import responses
from gateway.schemas.responses import ResponsesRequest
from tests.fake_triton import Entry, Fail, FakeTriton, token
from tests.gateway.conftest import Gateway
from tests.gateway.test_gateway_tools import CALL, guide, say

PNG = b"\x89PNG..."
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": None,
}


@pytest.fixture(autouse=True)
def callers(fake: FakeTriton) -> None:
    fake.entries["hermes"] = Entry({"task": "chat", "tool_call_parser": "hermes"})
    fake.entries["qwen3"] = Entry({"task": "chat", "tool_call_parser": "hermes", "reasoning_parser": "qwen3"})


def wire(fake: FakeTriton) -> Any:
    return json.loads(fake.requests[-1].tensors["messages"][0])


async def test_a_text(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    response = await client.responses.create(
        model="demo", input="hi", instructions="Be kind.", max_output_tokens=5, temperature=0, top_p=0.5
    )
    assert response.output_text == "Hello world"
    assert (response.status, response.model, response.object) == ("completed", "demo", "response")
    assert [item.type for item in response.output] == ["message"]
    assert response.usage is not None and response.usage.input_tokens_details.cached_tokens == 2
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 2, 9)
    assert (response.instructions, response.max_output_tokens, response.temperature) == ("Be kind.", 5, 0)
    assert wire(fake) == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    tensors = fake.requests[0].tensors
    assert (tensors["max_tokens"], tensors["temperature"], tensors["top_p"]) == ([5], [0.0], [0.5])


async def test_items_become_a_chat(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    image = {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}
    items: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, image]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I'll look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bonn"}'},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "21 °C"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "?"}]},
    ]
    await client.responses.create(model="demo", input=items, store=False)
    assert fake.requests[0].tensors["image"] == [PNG]
    assert wire(fake) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]},
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
        {"role": "tool", "content": [{"type": "text", "text": "?"}], "tool_call_id": "c2"},
    ]


async def test_the_events_of_a_text(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    stream = await client.responses.create(model="demo", input="hi", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello world"
    assert events[-1].type == "response.completed" and events[-1].response.output_text == "Hello world"
    raw = await gateway.http.post("/v1/responses", json={"model": "demo", "input": "hi", "stream": True})
    first = json.loads(raw.text.split("\n\n")[0].split("data: ")[1])["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert raw.text.startswith("event: response.created\n") and "[DONE]" not in raw.text


async def test_the_streaming_helper_gathers_thinking_text_and_calls(
    client: openai.AsyncOpenAI, fake: FakeTriton
) -> None:
    say(fake, "Let me", " see.</think>\n\nI'll ", "look.\n", *CALL, CALL)
    async with client.responses.stream(model="qwen3", input="hi", tools=[WEATHER]) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, _, call, other = response.output
    assert reasoning.type == "reasoning" and reasoning.summary == []
    assert reasoning.content is not None and reasoning.content[0].text == "Let me see."
    assert response.output_text == "I'll look."
    assert call.type == other.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Köln"})
    assert call.call_id != other.call_id and call.id != other.id
    assert response.usage is not None and response.usage.output_tokens_details.reasoning_tokens == 2
    said = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(said) == '{"city": "Köln"}' * 2
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [{"city": "Köln"}] * 2
    # What was streamed is what a plain answer says.
    plain = await client.responses.create(model="qwen3", input="hi", tools=[WEATHER])
    assert [item.type for item in plain.output] == [item.type for item in response.output]
    assert plain.output_text == response.output_text


async def test_a_loop_with_tools(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    say(fake, CALL)
    items: Any = [{"role": "user", "content": "Warm?"}]
    choice: Any = {"type": "function", "name": "weather"}
    asked = await client.responses.create(model="hermes", input=items, tools=[WEATHER], tool_choice=choice)
    form = guide(fake)
    assert (form["at_least_one"], form["stop_after_first"]) == (True, True)
    told = json.loads(fake.requests[-1].tensors["tools"][0])
    assert told == [{"type": "function", "function": {k: WEATHER[k] for k in ("name", "description", "parameters")}}]
    call = asked.output[0]
    assert call.type == "function_call"
    items += [item.model_dump() for item in asked.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "21 °C"})
    say(fake, "Yes.")
    answer = await client.responses.create(model="hermes", input=items, tools=[WEATHER])
    assert answer.output_text == "Yes."
    assert wire(fake)[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}
    assert wire(fake)[2]["tool_call_id"] == call.call_id


async def test_allowed_tools(gateway: Gateway, fake: FakeTriton) -> None:
    clock = {"type": "function", "name": "clock"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [clock]}
    body = {"model": "hermes", "input": "hi", "tools": [WEATHER, clock], "tool_choice": choice}
    assert (await gateway.http.post("/v1/responses", json=body)).status_code == 200
    assert ["clock" in tag["begin"] for tag in guide(fake)["tags"]] == [True]


class City(BaseModel):
    name: str


async def test_parse(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    say(fake, '{"name": ', '"Köln"}')
    response = await client.responses.parse(model="demo", input="Where?", text_format=City)
    assert response.output_parsed == City(name="Köln")
    tensors = fake.requests[0].tensors
    assert tensors["guided_decoding_guide_type"] == [b"json_schema"]
    assert json.loads(tensors["guided_decoding_guide"][0])["required"] == ["name"]
    await client.responses.create(model="demo", input="Where?", text={"format": {"type": "json_object"}})
    assert json.loads(fake.requests[1].tensors["guided_decoding_guide"][0]) == {"type": "object"}


async def test_logprobs(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    one = '[{"token":"x","bytes":[120],"logprob":-1.0,"top_logprobs":[]}]'
    fake.script = lambda received: [token("", logprobs=one), token("x", logprobs=one), token("", "stop")]
    wanted: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = await client.responses.create(model="demo", input="hi", **wanted)
    part = response.output[0].content[0]  # type: ignore[union-attr, index]
    assert part.type == "output_text" and part.logprobs is not None
    assert [each.token for each in part.logprobs] == ["x", "x"]
    stream = await client.responses.create(model="demo", input="hi", stream=True, **wanted)
    deltas = [event async for event in stream if event.type == "response.output_text.delta"]
    assert [len(delta.logprobs) for delta in deltas] == [2], "those of held back text come with the next text"


@pytest.mark.parametrize("text", ["Hel", ""])
async def test_a_cut_answer_is_incomplete(client: openai.AsyncOpenAI, fake: FakeTriton, text: str) -> None:
    say(fake, text, finish="length")
    plain = await client.responses.create(model="demo", input="hi")
    async with client.responses.stream(model="demo", input="hi") as stream:
        events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.incomplete"
    for response in (plain, last.response):
        assert response.status == "incomplete" and response.output_text == text
        assert response.incomplete_details is not None and response.incomplete_details.reason == "max_output_tokens"


async def test_a_fault_in_mid_stream(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("Hel"), Fail("[UNAVAILABLE] llm: gone")]
    stream = await client.responses.create(model="demo", input="hi", stream=True)
    *events, last = [event async for event in stream]
    assert last.type == "response.failed" and last.sequence_number == len(events)
    assert last.response.status == "failed" and last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == ("server_error", "llm: gone")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"store": True}, "store", "unsupported"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported"),
        ({"conversation": "c"}, "conversation", "unsupported"),
        ({"background": True}, "background", "unsupported"),
        ({"truncation": "auto"}, "truncation", "unsupported"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [{"role": "robot", "content": "hi"}]}, "input.0.role", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input.0.content", "missing_required"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "unsupported"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0.type", "unsupported"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]},
            "input.0.content.0.image_url",
            "invalid_value",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0.call_id", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name", "invalid_value"),
        ({"tools": [WEATHER]}, "tools", "unsupported"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "invalid_value"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "unsupported"),
    ],
)
async def test_refusals(gateway: Gateway, fields: dict[str, Any], param: str, code: str) -> None:
    response = await gateway.http.post("/v1/responses", json={"model": "demo", "input": "hi"} | fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


async def test_the_models_complaints_name_the_clients_fields(gateway: Gateway, fake: FakeTriton) -> None:
    form = {"format": {"type": "json_schema", "name": "x", "schema": {}}}
    for tensor, param in (
        ("max_tokens", "max_output_tokens"),
        ("text_input", "input"),
        ("guided_decoding_guide", "text.format.schema"),
    ):
        fake.script = lambda received, tensor=tensor: [Fail(f"[INVALID_ARGUMENT] {tensor}: too much")]
        body = {"model": "demo", "input": "hi", "text": form}
        error = (await gateway.http.post("/v1/responses", json=body)).json()["error"]
        assert (error["param"], error["message"]) == (param, f"{param}: too much")


def test_every_field_of_the_official_client_is_known() -> None:
    fields = set(response_create_params.ResponseCreateParamsBase.__annotations__) | {"stream"}
    known = {*ResponsesRequest.model_fields, *responses._SHARED, *responses.NOT_SUPPORTED}
    assert fields - known - {*responses.STORED, *responses.IGNORED} == set()
