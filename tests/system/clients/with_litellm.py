"""LiteLLM as a client: asks what the JSON on standard input says, and prints the answers as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import litellm
from completions import chat_answers, messages_of

task: dict[str, Any] = json.load(sys.stdin)
# It would print advice beside the answers.
litellm.suppress_debug_info = True
place = {"api_base": task["url"] + "/v1", "api_key": "none", "max_retries": 0}


def complete(question: Any, model: str = "openai/demo-vl", **fields: Any) -> Any:
    return litellm.completion(model=model, messages=messages_of(question), temperature=0, **place, **fields)


def refused() -> str:
    try:
        complete("hi", model="openai/no-such-model")
    except litellm.exceptions.NotFoundError as error:
        return type(error).__name__
    return ""


with Path(task["recording"]).open("rb") as recording:
    heard = litellm.transcription(model="openai/demo-whisper", file=recording, language="en", **place)
print(json.dumps({**chat_answers(task, complete), "heard": heard.text, "refused": refused()}))
