"""Speech in a chat: the demo model answers what the demo speech model heard."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest

from tests.speech import say, words

pytestmark = pytest.mark.triton


def spoken(text: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(say(text)).decode(), "format": "wav"}}


def ask(client: openai.OpenAI, *content: Any) -> Any:
    messages: Any = [{"role": "user", "content": list(content)}]
    return client.chat.completions.create(model="demo-vl", messages=messages, temperature=0)


def test_the_answer_follows_what_is_said(client: openai.OpenAI) -> None:
    repeat = {"type": "text", "text": "Repeat after me:"}
    for said in ("one two three", "seven eight"):
        answer = ask(client, repeat, spoken(said))
        written = ask(client, {"type": "text", "text": f"Repeat after me: {said}"})
        assert answer.choices[0].message.content == written.choices[0].message.content
        details = answer.usage.prompt_tokens_details.model_dump()
        assert details["transcribed_by"] == "demo-whisper"
        assert answer.usage.prompt_tokens == written.usage.prompt_tokens + details["audio_tokens"]


def test_what_is_no_sound_is_refused_by_its_path(client: openai.OpenAI) -> None:
    data = base64.b64encode(b"this is no recording").decode()
    with pytest.raises(openai.BadRequestError, match="WAV") as caught:
        ask(client, {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    assert caught.value.param == "messages.0.content.0.input_audio.data"


def test_responses_take_speech_too(client: openai.OpenAI) -> None:
    content: Any = [{"type": "input_text", "text": "Repeat after me:"}, spoken("four five")]
    answer = client.responses.create(model="demo-vl", input=[{"role": "user", "content": content}], temperature=0)
    written = client.responses.create(model="demo-vl", input="Repeat after me: four five", temperature=0)
    assert words(answer.output_text) == words(written.output_text)
