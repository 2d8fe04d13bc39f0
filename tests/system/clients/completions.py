"""What every client that gives OpenAI's objects is asked: `ask(question, **fields)` makes one chat completion."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Ask = Callable[..., Any]


def messages_of(question: Any) -> list[Any]:
    """A question in words is a message; a list is a conversation."""
    return question if isinstance(question, list) else [{"role": "user", "content": question}]


def chat_answers(task: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """Text, stream, picture, tool call and form."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{task['picture']}"}}
    look = [{"role": "user", "content": [picture, {"type": "text", "text": task["look"]}]}]
    return {
        "text": _content(ask(task["question"])),
        "pieces": [chunk.choices[0].delta.content or "" for chunk in ask(task["question"], stream=True)],
        "seen": _content(ask(look)),
        "call": _use_a_tool(task, ask),
        "form": _fill_a_form(task, ask),
    }


def _content(completion: Any) -> Any:
    return completion.choices[0].message.content


def _use_a_tool(task: dict[str, Any], ask: Ask) -> dict[str, Any]:
    tools = [{"type": "function", "function": task["tool"]}]
    message = ask(task["errand"], tools=tools).choices[0].message
    (call,) = message.tool_calls
    told = {"role": "tool", "tool_call_id": call.id, "content": task["result"]}
    answer = ask([{"role": "user", "content": task["errand"]}, message, told], tools=tools)
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments), "told": _content(answer)}


def _fill_a_form(task: dict[str, Any], ask: Ask) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": task["schema"], "strict": True}}
    return json.loads(_content(ask(task["question"], response_format=form)))
