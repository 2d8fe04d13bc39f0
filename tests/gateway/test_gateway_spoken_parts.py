"""Audio parts of a chat become text at their place, and the usage says who wrote it down."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fake_triton import Fail, FakeTriton, Hang, Received, token, transcript
from tests.gateway.conftest import Gateway, StartGateway

ONE, TWO = base64.b64encode(b"RIFF one").decode(), base64.b64encode(b"RIFF two").decode()
AND: Any = {"type": "text", "text": "and"}


def audio(data: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def audio_url(url: str) -> dict[str, Any]:
    return {"type": "audio_url", "audio_url": {"url": url}}


def script(received: Received) -> list[Any]:
    """The speech model says what the file holds after RIFF; the chat model answers."""
    if received.model == "whisper":
        return [transcript(" " + received.tensors["audio"][0].decode().removeprefix("RIFF "))]
    return [token("yes", "stop", num_input_tokens=7)]


@pytest.fixture(autouse=True)
def _listens(fake: FakeTriton) -> None:
    fake.script = script


def told(fake: FakeTriton) -> list[Any]:
    """The messages that reached the chat model."""
    (asked,) = [each for each in fake.requests if each.model == "llm"]
    messages: list[Any] = json.loads(asked.tensors["messages"][0])
    return messages


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["param"]


async def test_text_stands_where_the_audio_was(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    messages: Any = [
        {"role": "system", "content": "Listen."},
        {"role": "user", "content": [audio(ONE), AND, audio_url(f"data:audio/wav;base64,{TWO}")]},
    ]
    answer = await client.chat.completions.create(model="demo", messages=messages)
    content = [{"type": "text", "text": text} for text in ("one ", "and", " two")]
    assert told(fake) == [messages[0], {"role": "user", "content": content}]
    usage = answer.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    details = usage.prompt_tokens_details.model_dump()
    assert (details["audio_tokens"], details["transcribed_by"]) == (226, "org/demo-speech")
    assert (usage.prompt_tokens, usage.total_tokens) == (7 + 226, 8 + 226)


async def test_streams_count_it_too(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    messages: Any = [{"role": "user", "content": [audio(ONE)]}]
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await client.chat.completions.create(model="demo", messages=messages, **options)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.prompt_tokens_details.audio_tokens == 113


async def test_responses_hear_as_well(gateway: Gateway, fake: FakeTriton) -> None:
    body = {"input": [{"role": "user", "content": [audio(ONE), {"type": "input_text", "text": "and"}]}]}
    response = await gateway.http.post("/v1/responses", json=body)
    details = response.json()["usage"]["input_tokens_details"]
    assert (details["audio_tokens"], details["transcribed_by"]) == (113, "org/demo-speech")
    assert [part["text"] for part in told(fake)[0]["content"]] == ["one ", "and"]
    body["input"][0]["content"] = [audio("?")]
    assert error_of(await gateway.http.post("/v1/responses", json=body)) == (400, "input.0.content.0.input_audio.data")


async def test_chats_without_audio_say_nothing_of_it(gateway: Gateway, fake: FakeTriton) -> None:
    details = (await gateway.chat()).json()["usage"]["prompt_tokens_details"]
    assert set(details) == {"cached_tokens", "image_tokens"}
    assert [received.model for received in fake.requests] == ["llm"]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "input_audio"}, "input_audio"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "input_audio"),
        (audio("?"), "input_audio.data"),
        (audio("http://example.com/a.wav"), "input_audio.data"),
        (audio(base64.b64encode(bytes(200)).decode()), "input_audio.data"),
        (audio_url("data:audio/wav,abc"), "audio_url.url"),
        (audio_url("http://example.com/a.wav"), "audio_url.url"),
    ],
)
async def test_bad_parts_are_named(
    start_gateway: StartGateway, fake: FakeTriton, part: dict[str, Any], field: str
) -> None:
    gateway = await start_gateway(max_audio_bytes=100)
    response = await gateway.chat([AND, part])
    assert error_of(response) == (400, f"messages.0.content.1.{field}"), response.text
    assert "image" not in response.json()["error"]["message"]
    assert fake.requests == []


async def test_there_may_be_so_many_and_no_more(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(max_audio_parts=2)
    assert (await gateway.chat([audio(ONE), audio(TWO)])).status_code == 200
    response = await gateway.chat([audio(ONE)] * 3)
    assert error_of(response) == (400, "messages")
    assert "At most 2 audio parts" in response.text


async def test_files_of_the_allowed_folder(start_gateway: StartGateway, fake: FakeTriton, tmp_path: Path) -> None:
    (tmp_path / "one.wav").write_bytes(b"RIFF one")
    gateway = await start_gateway(allowed_media_folder=str(tmp_path))
    part = audio_url((tmp_path / "one.wav").as_uri())
    assert (await gateway.chat([part, part])).status_code == 200
    assert [each["text"] for each in told(fake)[0]["content"]] == ["one", " one"]
    response = await gateway.chat([audio_url((tmp_path / "two.wav").as_uri())])
    assert error_of(response) == (400, "messages.0.content.0.audio_url.url")


async def test_what_the_speech_model_says_against_it(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [Fail("[INVALID_ARGUMENT] audio: no sound")]
    response = await gateway.chat([audio(ONE)])
    assert error_of(response) == (400, "messages.0.content.0.input_audio.data")
    assert "no sound" in response.text


async def test_without_a_speech_model(gateway: Gateway, fake: FakeTriton) -> None:
    del fake.entries["whisper"]
    await gateway.services.discovery.refresh()
    response = await gateway.chat([AND, audio(ONE)])
    assert error_of(response) == (400, "messages.0.content.1.input_audio.data")
    assert response.json()["error"]["code"] == "unsupported"


async def test_a_long_recording_is_left_as_soon_as_it_is_known(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(max_audio_part_s=20.0)
    fake.script = lambda received: [transcript("one", "", duration=21.0), Hang()]
    response = await gateway.chat([audio(ONE)])
    assert error_of(response) == (400, "messages.0.content.0.input_audio.data")
    assert "longer than 20 seconds" in response.text
    await asyncio.wait_for(fake.requests[0].cancelled.wait(), 5)
