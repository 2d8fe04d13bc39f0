"""LangChain's chat model: asks what the JSON on standard input says, and prints the answers as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

task: dict[str, Any] = json.load(sys.stdin)
place: Any = {"base_url": task["url"] + "/v1", "api_key": "none", "max_retries": 0}
model = ChatOpenAI(model="demo-vl", temperature=0, **place)


def use_a_tool() -> dict[str, Any]:
    with_tools = model.bind_tools([{"type": "function", "function": task["tool"]}])
    message = with_tools.invoke(task["errand"])
    (call,) = message.tool_calls
    told = ToolMessage(task["result"], tool_call_id=call["id"])
    answer = with_tools.invoke([HumanMessage(task["errand"]), message, told])
    return {"name": call["name"], "arguments": call["args"], "told": answer.content}


def refused() -> str:
    try:
        ChatOpenAI(model="no-such-model", **place).invoke("hi")
    except openai.APIError as error:
        # LangChain may raise a class of its own below the client's.
        return next(base.__name__ for base in type(error).__mro__ if base.__module__.startswith("openai"))
    return ""


picture = {"type": "image", "base64": task["picture"], "mime_type": "image/png"}
schema = {"title": "shape", "description": "A shape.", **task["schema"]}
answers = {
    "text": model.invoke(task["question"]).content,
    "pieces": [chunk.content for chunk in model.stream(task["question"])],
    "seen": model.invoke([HumanMessage([picture, {"type": "text", "text": task["look"]}])]).content,
    "call": use_a_tool(),
    "form": model.with_structured_output(schema).invoke(task["question"]),
    "refused": refused(),
}
print(json.dumps(answers))
