"""Anthropic's client: asks what the JSON on standard input says, and prints the answers as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic

task: dict[str, Any] = json.load(sys.stdin)
client = anthropic.Anthropic(base_url=task["url"], api_key="none", max_retries=0)


def fields(question: Any, **more: Any) -> Any:
    messages = question if isinstance(question, list) else [{"role": "user", "content": question}]
    # The client has no name for it any more; servers still take it.
    return {"model": "demo-vl", "messages": messages, "max_tokens": 100, "extra_body": {"temperature": 0}} | more


def text(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def pieces() -> list[str]:
    with client.messages.stream(**fields(task["question"])) as stream:
        return list(stream.text_stream)


def use_a_tool() -> dict[str, Any]:
    tool = task["tool"]
    tools = [{"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}]
    message = client.messages.create(**fields(task["errand"], tools=tools))
    (call,) = [block for block in message.content if block.type == "tool_use"]
    told = {"type": "tool_result", "tool_use_id": call.id, "content": task["result"]}
    turns = [
        {"role": "user", "content": task["errand"]},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [told]},
    ]
    return {
        "name": call.name,
        "arguments": call.input,
        "told": text(client.messages.create(**fields(turns, tools=tools))),
    }


def fill_a_form() -> Any:
    form = {"format": {"type": "json_schema", "schema": task["schema"]}}
    return json.loads(text(client.messages.create(**fields(task["question"], output_config=form))))


def refused() -> str:
    try:
        client.messages.create(**fields("hi", model="no-such-model"))
    except anthropic.APIError as error:
        return type(error).__name__
    return ""


source = {"type": "base64", "media_type": "image/png", "data": task["picture"]}
picture = [{"type": "image", "source": source}, {"type": "text", "text": task["look"]}]
answers = {
    "text": text(client.messages.create(**fields(task["question"]))),
    "pieces": pieces(),
    "seen": text(client.messages.create(**fields([{"role": "user", "content": picture}]))),
    "call": use_a_tool(),
    "form": fill_a_form(),
    "refused": refused(),
}
print(json.dumps(answers))
