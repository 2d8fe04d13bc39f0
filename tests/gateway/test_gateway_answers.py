"""Several answers, answers in a form, and answers that begin with thinking."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.fake_triton import Entry, Fail, FakeTriton, Received, token
from tests.gateway.conftest import Gateway
from tests.gateway.test_gateway_stream import events

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True, "description": "an x"}}
TAG = {"type": "triggered_tags", "triggers": ["<a>"], "tags": []}
TIMINGS = '{"prepare_s":0.05,"first_token_s":0.5,"total_s":2.5}'


@pytest.fixture(autouse=True)
def thinkers(fake: FakeTriton) -> None:
    for parser in ("qwen3", "deepseek_r1", "deepseek_v3"):
        fake.entries[parser] = Entry({"task": "chat", "reasoning_parser": parser, "tool_call_parser": "hermes"})


def two_answers(received: Received) -> list[Any]:
    """The sequences take turns, and the second ends first."""
    return [
        token("a"),
        token("b", sequence_index=1),
        token("", "length", sequence_index=1),
        token("c"),
        token("", "stop", timings=TIMINGS),
    ]


async def test_several_answers(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = two_answers
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    completion = await client.chat.completions.create(model="demo", messages=messages, n=2)
    said = [(choice.index, choice.message.content, choice.finish_reason) for choice in completion.choices]
    assert said == [(0, "ac", "stop"), (1, "b", "length")]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 5), "the prompt counts once"
    assert fake.requests[0].tensors["num_return_sequences"] == [2]


async def test_several_answers_streamed(client: openai.AsyncOpenAI, gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = two_answers
    *chunks, done = events((await gateway.chat(n=2, stream=True)).text)
    assert done == "[DONE]"
    said = [(choice["index"], choice["delta"], choice["finish_reason"]) for choice in map(only_choice, chunks)]
    role = {"role": "assistant", "content": ""}
    assert said == [
        (0, role, None),
        (1, role, None),
        (0, {"content": "a"}, None),
        (1, {"content": "b"}, None),
        (1, {}, "length"),
        (0, {"content": "c"}, None),
        (0, {}, "stop"),
    ]
    # The typed helper refuses what was cut off.
    fake.script = lambda received: [
        step | {"finish_reason": step["finish_reason"] and "stop"} for step in two_answers(received)
    ]
    async with client.chat.completions.stream(
        model="demo", messages=[{"role": "user", "content": "hi"}], n=2
    ) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["ac", "b"]


async def test_an_answer_that_never_ends_is_an_error(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: two_answers(received)[:-1]
    assert (await gateway.chat(n=2)).status_code == 502
    text = (await gateway.chat(n=2, stream=True)).text
    assert "[DONE]" not in text and events(text)[-1]["error"]["code"] == "upstream_error"
    fake.script = lambda received: [token("x", sequence_index=5)]
    assert (await gateway.chat()).status_code == 502


async def test_times_stand_in_the_usage(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), token("b", "stop", timings=TIMINGS)]
    plain = (await gateway.chat()).json()["usage"]
    assert (plain["processing_time"], plain["first_token_time"], plain["tokens_per_second"]) == (2.5, 0.5, 0.5)
    *_, usage, _ = events((await gateway.chat(stream=True, stream_options={"include_usage": True})).text)
    assert usage["usage"] == plain


GUIDES: list[tuple[dict[str, Any], str, Any]] = [
    ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
    ({"response_format": FORMAT}, "json_schema", SCHEMA),
    ({"response_format": {"type": "structural_tag", "format": TAG}}, "structural_tag", {"type": "structural_tag"}),
    ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", SCHEMA),
    ({"structured_outputs": {"json_object": True}}, "json_schema", {"type": "object"}),
    ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "choice", ["yes", "no"]),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "ebnf_grammar", 'root ::= "a"'),
    ({"structured_outputs": {"structural_tag": {"type": "structural_tag", "format": TAG}}}, "structural_tag", {}),
    ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
    ({"guided_regex": "a+"}, "regex", "a+"),
    ({"guided_choice": ["yes", "no"]}, "choice", ["yes", "no"]),
    ({"guided_grammar": "start: 'a'"}, "ebnf_grammar", "start: 'a'"),
]


@pytest.mark.parametrize(("fields", "kind", "text"), GUIDES)
async def test_every_form_becomes_a_guide(
    gateway: Gateway, fake: FakeTriton, fields: dict[str, Any], kind: str, text: Any
) -> None:
    response = await gateway.chat(**fields)
    assert response.status_code == 200, response.text
    tensors = fake.requests[0].tensors
    assert tensors["guided_decoding_guide_type"] == [kind.encode()]
    guide = tensors["guided_decoding_guide"][0].decode()
    if kind in ("regex", "ebnf_grammar"):
        assert guide == text
    elif kind == "structural_tag":
        assert json.loads(guide)["type"] == "structural_tag"
    else:
        assert json.loads(guide) == text


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format", "missing_required"),
        ({"response_format": FORMAT, "guided_regex": "a"}, "guided_regex", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs.regex", "invalid_value"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "invalid_value"),
        ({"guided_json": [1]}, "guided_json", "invalid_value"),
        ({"guided_choice": ["a", ""]}, "guided_choice", "invalid_value"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported"),
        ({"model": "qwen3", "guided_grammar": "a"}, "guided_grammar", "unsupported"),
    ],
)
async def test_refusals(gateway: Gateway, fields: dict[str, Any], param: str, code: str) -> None:
    response = await gateway.chat(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


async def test_a_schema_that_the_model_refuses_is_named_as_the_client_named_it(
    gateway: Gateway, fake: FakeTriton
) -> None:
    for fields, param in (
        ({"response_format": FORMAT}, "response_format.json_schema.schema"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"structured_outputs": {"grammar": "?"}}, "structured_outputs.grammar"),
    ):
        fake.script = lambda received: [Fail("[INVALID_ARGUMENT] guided_decoding_guide: it cannot be followed")]
        error = (await gateway.chat(**fields)).json()["error"]
        assert error["param"] == param
        assert error["message"] == f"{param}: it cannot be followed"


class City(BaseModel):
    name: str
    people: int


async def test_parse_into_a_model(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [token('{"name": "Köln", '), token('"people": 1}', "stop")]
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    completion = await client.chat.completions.parse(model="demo", messages=messages, response_format=City)
    assert completion.choices[0].message.parsed == City(name="Köln", people=1)
    async with client.chat.completions.stream(model="demo", messages=messages, response_format=City) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == City(name="Köln", people=1)
    guide = json.loads(fake.requests[0].tensors["guided_decoding_guide"][0])
    assert guide["required"] == ["name", "people"]


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"response_format": FORMAT}, {"type": "json_schema", "json_schema": SCHEMA}),
        ({"guided_regex": "a+"}, {"type": "regex", "pattern": "a+"}),
        ({"guided_choice": ["a"]}, {"type": "or", "elements": [{"type": "const_string", "value": "a"}]}),
        ({"response_format": {"type": "structural_tag", "format": TAG}}, TAG),
    ],
)
async def test_the_form_begins_behind_the_thinking(
    gateway: Gateway, fake: FakeTriton, fields: dict[str, Any], form: Any
) -> None:
    assert (await gateway.chat(model="qwen3", **fields)).status_code == 200
    tensors = fake.requests[0].tensors
    assert tensors["guided_decoding_guide_type"] == [b"structural_tag"]
    thinking, layout, then = json.loads(tensors["guided_decoding_guide"][0])["format"]["elements"]
    assert (thinking["content"], thinking["end"]) == ({"type": "any_text"}, "</think>")
    assert (layout["value"], then) == ("\n\n", form)


async def test_a_form_beside_tools_leaves_room_for_calls(gateway: Gateway, fake: FakeTriton) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    fields: dict[str, Any] = {"tools": tools, "chat_template_kwargs": {"enable_thinking": False}, "model": "qwen3"}
    assert (await gateway.chat(response_format=FORMAT, **fields)).status_code == 200
    answer, calls = json.loads(fake.requests[-1].tensors["guided_decoding_guide"][0])["format"]["elements"]
    assert answer == {"type": "json_schema", "json_schema": SCHEMA}
    assert (calls["type"], calls["at_least_one"]) == ("triggered_tags", True)
    refused = await gateway.chat(guided_grammar="x", **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_grammar")
    # A demanded call is the whole answer.
    assert (await gateway.chat(response_format=FORMAT, tool_choice="required", **fields)).status_code == 200
    assert json.loads(fake.requests[-1].tensors["guided_decoding_guide"][0])["format"]["type"] == "triggered_tags"


THOUGHT = ["<think>", "\nSo", ".", "\n</th", "ink>", "\n\n", "Yes", "!"]


@pytest.mark.parametrize(("model", "skip"), [("qwen3", 0), ("deepseek_r1", 1)])
async def test_thinking_is_split_off(gateway: Gateway, fake: FakeTriton, model: str, skip: int) -> None:
    """Also when the template has opened it, so that its mark never arrives."""
    fake.script = lambda received: [*map(token, THOUGHT[skip:]), token("", "stop")]
    body = (await gateway.chat(model=model)).json()
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["reasoning"], message["content"]) == ("So.", "So.", "Yes!")
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5 - skip}
    assert fake.requests[0].tensors["stream"] == [True], "tokens of a part are counted by their responses"
    *chunks, usage, _ = events(
        (await gateway.chat(model=model, stream=True, stream_options={"include_usage": True})).text
    )
    assert usage["usage"] == body["usage"]
    deltas = [only_choice(chunk)["delta"] for chunk in chunks]
    assert [delta for delta in deltas if "reasoning_content" in delta] == [
        {"reasoning_content": "So", "reasoning": "So"},
        {"reasoning_content": ".", "reasoning": "."},
    ]
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes!"


async def test_thinking_that_never_ends_is_no_content(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("So"), token("", "length")]
    choice = (await gateway.chat(model="qwen3")).json()["choices"][0]
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("So", None)
    assert choice["finish_reason"] == "length"


async def test_calls_behind_the_thinking(gateway: Gateway, fake: FakeTriton) -> None:
    text = '<think>Maybe <tool_call>?</think>\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    fake.script = lambda received: [*map(token, text), token("", "stop")]
    tools = [{"type": "function", "function": {"name": "f"}}]
    choice = (await gateway.chat(model="qwen3", tools=tools)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "Maybe <tool_call>?"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("model", "fields", "thinks", "template"),
    [
        ("qwen3", {}, True, None),
        ("qwen3", {"reasoning_effort": "high"}, True, {"reasoning_effort": "high", "enable_thinking": True}),
        ("qwen3", {"reasoning_effort": "none"}, False, {"reasoning_effort": "none", "enable_thinking": False}),
        ("qwen3", {"chat_template_kwargs": {"enable_thinking": False}}, False, {"enable_thinking": False}),
        ("qwen3", {"guided_regex": ".*"}, True, None),
        ("deepseek_v3", {}, False, None),
        ("deepseek_v3", {"reasoning_effort": "low"}, True, {"reasoning_effort": "low", "thinking": True}),
        (
            "qwen3",
            {"continue_final_message": True},
            False,
            {"add_generation_prompt": False, "continue_final_message": True},
        ),
        ("demo", {"reasoning_effort": "none"}, False, None),
    ],
)
async def test_who_thinks(
    gateway: Gateway, fake: FakeTriton, model: str, fields: dict[str, Any], thinks: bool, template: Any
) -> None:
    fake.script = lambda received: [token("text", "stop")]
    message = (await gateway.chat(model=model, **fields)).json()["choices"][0]["message"]
    assert message.get("reasoning_content" if thinks else "content") == "text"
    given = fake.requests[0].tensors.get("chat_template_kwargs")
    assert (json.loads(given[0]) if given else None) == template


def only_choice(chunk: dict[str, Any]) -> dict[str, Any]:
    (choice,) = chunk["choices"]
    assert isinstance(choice, dict)
    return choice
