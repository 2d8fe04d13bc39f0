"""The two ends of a guide: what the gateway writes is what the `llm` entry's grammars take."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from gateway.discovery import ServedModel
from gateway.schemas.chat import plan_chat, read_chat_request
from gateway.schemas.messages import Prompt
from python_backends.torch_engine.grammar import write_grammar
from python_backends.types import Guide

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g")]
STRICT = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]  # type: ignore[dict-item]
REQUIRED = {"tools": TOOLS, "tool_choice": "required"}
HERMES = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
# A tokenizer of bytes: every text can be spelt, and only the grammar decides.
BYTES = LLTokenizer("byte")


def takes(fields: dict[str, Any], text: str, parser: str = "hermes", thinks: bool = False) -> bool:
    """Whether `text` may be the whole answer to a request with these fields."""
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    reasoning = "qwen3" if thinks else ""
    model = ServedModel(("m",), "llm", "chat", ("text",), None, parser, reasoning, None, frozenset(), frozenset())
    chat = read_chat_request(json.dumps(body).encode())
    inputs: dict[str, Any] = plan_chat(chat, Prompt(b"[]", [], []), model).inputs
    text_or_json = inputs["guided_decoding_guide"]
    guided = text_or_json if isinstance(text_or_json, str) else text_or_json.decode()
    guide = Guide(inputs["guided_decoding_guide_type"], guided)
    matcher = LLMatcher(BYTES, write_grammar(guide, {}), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return bool(matcher.consume_tokens(BYTES.tokenize_str(text)) and matcher.is_accepting())


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"response_format": FORMAT}, '{"a": 1}', '{"b": 1}'),
        ({"response_format": {"type": "json_object"}}, '{"b": [1]}', "[1]"),
        ({"guided_regex": "a+"}, "aaa", "b"),
        ({"guided_choice": ["yes", "no"]}, "no", "maybe"),
        ({"guided_grammar": 'start: "a" "b"'}, "ab", "a"),
        (REQUIRED, HERMES, "I would rather not."),
        (REQUIRED, HERMES, HERMES.replace('"a": 1', '"a": "x"')),
        (REQUIRED, HERMES + "\n" + HERMES.replace('"f"', '"g"'), HERMES.replace('"f"', '"h"')),
        ({**REQUIRED, "parallel_tool_calls": False}, HERMES, HERMES + "\n" + HERMES),
        ({"tools": STRICT}, "Hello.", HERMES.replace('"a": 1', "")),
        ({"tools": STRICT}, f"Let me see. {HERMES}", f"Let me see. {HERMES.replace('1', 'x')}"),
        ({"tools": TOOLS, "response_format": FORMAT}, '{"a": 1}', "Hello."),
        ({"tools": TOOLS, "response_format": FORMAT}, HERMES, f"Hello. {HERMES}"),
    ],
)
def test_a_guide_takes_what_is_right(fields: dict[str, Any], right: str, wrong: str) -> None:
    assert takes(fields, right)
    assert not takes(fields, wrong)


@pytest.mark.parametrize("fields", [{"response_format": FORMAT}, {"guided_regex": r'\{"a": 1\}'}])
def test_a_form_begins_behind_the_thinking(fields: dict[str, Any]) -> None:
    assert takes(fields, '<think>\nSo {"b": 2}.\n</think>\n\n{"a": 1}', thinks=True)
    assert not takes(fields, '<think>\nSo.\n</think>\n\n{"b": 1}', thinks=True)
    assert not takes(fields, '{"a": 1}', thinks=True)


@pytest.mark.parametrize(
    ("parser", "call"),
    [
        ("llama3_json", '{"name": "f", "parameters": {"a": 1}}'),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'),
    ],
)
def test_calls_of_the_other_formats(parser: str, call: str) -> None:
    assert takes(REQUIRED, call, parser)
    assert not takes(REQUIRED, call.replace("1", '"x"'), parser)
    assert takes({"tools": STRICT}, "Hello.", parser)
