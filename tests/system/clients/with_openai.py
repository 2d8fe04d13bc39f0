"""OpenAI's client for Python: asks what the JSON on standard input says, and prints the answers as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import openai
from completions import chat_answers, messages_of

task: dict[str, Any] = json.load(sys.stdin)
client = openai.OpenAI(base_url=task["url"] + "/v1", api_key="none", max_retries=0)


def create(question: Any, **fields: Any) -> Any:
    return client.chat.completions.create(model="demo-vl", messages=messages_of(question), temperature=0, **fields)


def refused() -> str:
    try:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    except openai.APIError as error:
        return type(error).__name__
    return ""


heard = client.audio.transcriptions.create(model="demo-whisper", file=Path(task["recording"]), language="en")
print(json.dumps({**chat_answers(task, create), "heard": heard.text, "refused": refused()}))
