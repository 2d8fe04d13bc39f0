"""Tools: what the model is told and held to, and that its calls reach the client as OpenAI sends them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.fake_triton import Entry, FakeTriton, token
from tests.gateway.conftest import Gateway
from tests.gateway.test_gateway_parsers import TEXTS
from tests.gateway.test_gateway_stream import events

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
USER: list[Any] = [{"role": "user", "content": "Is it warm in Köln?"}]


@pytest.fixture(autouse=True)
def callers(fake: FakeTriton) -> None:
    for parser in ("hermes", "llama3_json", "mistral"):
        fake.entries[parser] = Entry({"task": "chat", "tool_call_parser": parser})


def say(fake: FakeTriton, *texts: str, finish: str = "stop") -> None:
    fake.script = lambda received: [*(token(text) for text in texts), token("", finish)]


def guide(fake: FakeTriton) -> Any:
    tensors = fake.requests[-1].tensors
    assert tensors["guided_decoding_guide_type"] == [b"structural_tag"]
    tag = json.loads(tensors["guided_decoding_guide"][0])
    assert tag["type"] == "structural_tag"
    return tag["format"]


async def test_calls_are_read_from_the_text(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    say(fake, "I'll look.\n", CALL, "\n", CALL.replace("Köln", "Bonn"))
    completion = await client.chat.completions.create(model="hermes", messages=USER, tools=[WEATHER, CLOCK])  # type: ignore[list-item]
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("I'll look.", "tool_calls")
    assert choice.message.tool_calls is not None
    calls = [call for call in choice.message.tool_calls if call.type == "function"]
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Köln"}, {"city": "Bonn"}]
    assert len({call.id for call in calls}) == 2
    tensors = fake.requests[0].tensors
    assert json.loads(tensors["tools"][0]) == [WEATHER, CLOCK]
    assert json.loads(tensors["sampling_parameters"][0]) == {"skip_special_tokens": False}
    assert "guided_decoding_guide" not in tensors, "the text is free unless a tool is strict or a call is demanded"


async def test_streamed_calls_have_openais_grammar(gateway: Gateway, fake: FakeTriton) -> None:
    say(fake, "Hm.\n<tool", '_call>{"name": "weather", "arguments": {"ci', 'ty": "Köln"}', "}</tool_call>\n", CALL)
    *chunks, done = events((await gateway.chat(model="hermes", tools=[WEATHER], stream=True)).text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    ids = [call["id"] for delta in deltas for call in delta.get("tool_calls", []) if "id" in call]
    assert len(set(ids)) == 2 and all(found.startswith("call_") for found in ids)

    def first(index: int) -> dict[str, Any]:
        function = {"name": "weather", "arguments": ""}
        return {"tool_calls": [{"index": index, "id": ids[index], "type": "function", "function": function}]}

    def piece(index: int, text: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Hm."},
        first(0),
        piece(0, '{"ci'),
        piece(0, 'ty": "Köln"}'),
        first(1),
        piece(1, '{"city": "Köln"}'),
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 7 + ["tool_calls"]


@pytest.mark.parametrize(("model", "text"), TEXTS[::3])
async def test_streaming_says_what_a_plain_answer_says(
    gateway: Gateway, fake: FakeTriton, model: str, text: str
) -> None:
    say(fake, text)
    plain = (await gateway.chat(model=model, tools=[WEATHER])).json()["choices"][0]
    say(fake, *text)
    *chunks, _ = events((await gateway.chat(model=model, tools=[WEATHER], stream=True)).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    content = "".join(delta.get("content") or "" for delta in deltas)
    assert content == (plain["message"]["content"] or "")
    names, arguments = [], [""] * 9
    for call in [call for delta in deltas for call in delta.get("tool_calls", [])]:
        names += [call["function"]["name"]] if "id" in call else []
        arguments[call["index"]] += call["function"]["arguments"]
    calls = [call["function"] for call in plain["message"].get("tool_calls", [])]
    assert list(zip(names, arguments, strict=False)) == [(call["name"], call["arguments"]) for call in calls]
    assert chunks[-1]["choices"][0]["finish_reason"] == plain["finish_reason"]


class Weather(BaseModel):
    """The weather of a city."""

    city: str


async def test_typed_streaming_helper(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    say(fake, *CALL.replace("weather", "Weather"))
    tools = [openai.pydantic_function_tool(Weather)]
    async with client.chat.completions.stream(model="hermes", messages=USER, tools=tools) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = await stream.get_final_completion()
    assert [event.parsed_arguments for event in done] == [Weather(city="Köln")]
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    form = guide(fake)
    assert (form["at_least_one"], form["stop_after_first"]) == (False, False), "a strict tool guides its calls only"
    assert form["tags"][0]["content"]["json_schema"]["required"] == ["city"]


async def test_tools_loop(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    messages = list(USER)
    say(fake, CALL)
    asked = (await client.chat.completions.create(model="hermes", messages=messages, tools=[WEATHER])).choices[0]  # type: ignore[list-item]
    assert asked.message.tool_calls is not None and asked.message.content is None
    messages.append(asked.message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "21 °C"} for call in asked.message.tool_calls]
    say(fake, "Yes, it is.")
    answer = await client.chat.completions.create(model="hermes", messages=messages, tools=[WEATHER])  # type: ignore[list-item]
    assert answer.choices[0].message.content == "Yes, it is."
    assert answer.choices[0].finish_reason == "stop"
    wire = json.loads(fake.requests[-1].tensors["messages"][0])
    # Templates want the arguments as an object, and the client sent them as text.
    assert wire[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
    assert wire[1]["content"] is None
    assert wire[2] == {"role": "tool", "content": "21 °C", "tool_call_id": asked.message.tool_calls[0].id}


async def test_broken_arguments_and_tool_messages_without_a_call_pass(gateway: Gateway, fake: FakeTriton) -> None:
    function = {"name": "weather", "arguments": "{broken"}
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}], "reasoning": "so"},
        {"role": "tool", "tool_call_id": "nobody's", "content": [{"type": "text", "text": "4"}]},
    ]
    assert (await gateway.chat(model="demo", messages=messages)).status_code == 200
    wire = json.loads(fake.requests[0].tensors["messages"][0])
    assert wire[0] == {"role": "system", "content": "Be kind."}
    assert wire[1]["tool_calls"][0]["function"]["arguments"] == "{broken"
    assert wire[1]["reasoning_content"] == "so"
    assert wire[2]["content"] == [{"type": "text", "text": "4"}]
    for bad in ({}, ["x"], [{"function": {}}]):
        messages[1]["tool_calls"] = bad
        refused = await gateway.chat(model="demo", messages=messages)
        if bad:
            assert refused.json()["error"]["param"].startswith("messages.1.tool_calls")


@pytest.mark.parametrize(
    ("model", "begin", "end"),
    [
        ("hermes", '<tool_call>\n{"name": "weather", "arguments": ', "}\n</tool_call>"),
        ("llama3_json", '{"name": "weather", "parameters": ', "}"),
        ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": ', "}]"),
    ],
)
async def test_a_demanded_call_is_guided(gateway: Gateway, fake: FakeTriton, model: str, begin: str, end: str) -> None:
    say(fake, begin + '{"city": "Köln"}' + end)
    fields: dict[str, Any] = {"model": model, "tools": [WEATHER, CLOCK]}
    answer = (await gateway.chat(tool_choice="required", **fields)).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Köln"}'}
    form = guide(fake)
    assert (form["at_least_one"], form["stop_after_first"]) == (True, False)
    assert [tag["begin"] for tag in form["tags"]] == [begin, begin.replace("weather", "clock")]
    assert form["tags"][0]["content"] == {
        "type": "json_schema",
        "json_schema": WEATHER["function"]["parameters"],  # type: ignore[index]
    }
    assert form["tags"][0]["end"] == end and begin.startswith(form["triggers"][0])
    named = {"type": "function", "function": {"name": "clock"}}
    await gateway.chat(tool_choice=named, **fields)
    form = guide(fake)
    assert [tag["begin"] for tag in form["tags"]] == [begin.replace("weather", "clock")]
    assert (form["at_least_one"], form["stop_after_first"]) == (True, True)


async def test_only_the_allowed_tools_can_be_called(gateway: Gateway, fake: FakeTriton) -> None:
    clock = {"type": "function", "function": {"name": "clock"}}
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [clock]}}
        response = await gateway.chat(model="hermes", tools=[WEATHER, CLOCK], tool_choice=choice)
        assert response.status_code == 200, response.text
        form = guide(fake)
        assert form["at_least_one"] is (mode == "required") and form["stop_after_first"] is False
        assert ["clock" in tag["begin"] for tag in form["tags"]] == [True]
        assert len(json.loads(fake.requests[-1].tensors["tools"][0])) == 2, "the model is told of all of them"


async def test_one_call_at_most_without_parallel_calls(gateway: Gateway, fake: FakeTriton) -> None:
    say(fake, CALL, CALL)
    fields: dict[str, Any] = {"model": "hermes", "tools": [WEATHER], "parallel_tool_calls": False}
    message = (await gateway.chat(**fields)).json()["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1
    *chunks, _ = events((await gateway.chat(stream=True, **fields)).text)
    indices = {call["index"] for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])}
    assert indices == {0}


async def test_without_a_choice_of_calls_the_text_is_content(gateway: Gateway, fake: FakeTriton) -> None:
    say(fake, CALL)
    for fields in ({"tool_choice": "none", "tools": [WEATHER]}, {}):
        choice = (await gateway.chat(model="hermes", **fields)).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
        assert "tools" not in fake.requests[-1].tensors
    # A model that knows no calls takes the field as long as it asks for none.
    assert (await gateway.chat(tools=[WEATHER], tool_choice="none")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": "demo", "tools": [WEATHER]}, "tools", "unsupported"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": {"type": ["x"]}}, "tool_choice", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": 1}, "tool_choice", "invalid_value"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [1]}},
            },
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools", "invalid_value"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "invalid_value",
        ),
    ],
)
async def test_refusals(gateway: Gateway, fields: dict[str, Any], param: str, code: str) -> None:
    response = await gateway.chat(**{"model": "hermes", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


async def test_cut_off_calls_end_with_length(gateway: Gateway, fake: FakeTriton) -> None:
    say(fake, CALL[: CALL.index("öln")], finish="length")
    choice = (await gateway.chat(model="hermes", tools=[WEATHER])).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "K'


async def test_logprobs_survive_the_parser(gateway: Gateway, fake: FakeTriton) -> None:
    logprobs = '[{"token":"x","logprob":-1}]'
    fake.script = lambda received: [token(text, logprobs=logprobs) for text in CALL] + [token("", "stop")]
    fields: dict[str, Any] = {"model": "hermes", "tools": [WEATHER], "logprobs": True}
    plain = (await gateway.chat(**fields)).json()["choices"][0]["logprobs"]["content"]
    *chunks, _ = events((await gateway.chat(stream=True, **fields)).text)
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert len(plain) == len(CALL) == sum(len(found["content"]) for found in streamed if found)


async def test_unknown_parser_is_none(gateway: Gateway, fake: FakeTriton) -> None:
    fake.entries["odd"] = Entry({"task": "chat", "tool_call_parser": "odd", "reasoning_parser": "odd"})
    await gateway.services.discovery.refresh()
    response = await gateway.chat(model="odd", tools=[WEATHER])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
    assert (await gateway.http.get("/v1/models/odd")).json()["capabilities"] == ["chat", "completions", "tokenize"]
    assert "tools" in (await gateway.http.get("/v1/models/hermes")).json()["capabilities"]
