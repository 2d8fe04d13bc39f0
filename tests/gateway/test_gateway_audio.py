"""Transcriptions: the form, the two answers, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai

from tests.fake_triton import Fail, FakeTriton, Hang, transcript
from tests.gateway.conftest import Gateway, StartGateway

WAV = b"RIFF....WAVE" + bytes(1000)


async def transcribe(gateway: Gateway, file: bytes = WAV, **fields: Any) -> httpx.Response:
    return await gateway.http.post("/v1/audio/transcriptions", data=fields, files={"file": ("a.wav", file)})


async def test_json(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one two ", finish=""), transcript("three")]
    answer = await client.audio.transcriptions.create(
        model="org/demo-speech", file=("a.wav", WAV), language="en", prompt="digits", temperature=0.5
    )
    assert answer.text == "one two three"
    assert answer.model_dump()["usage"] == {"type": "duration", "seconds": 3}
    received = fake.requests[0]
    assert received.model == "transcription"
    assert received.tensors == {"audio": [WAV], "language": [b"en"], "prompt": [b"digits"], "temperature": [0.5]}


async def test_text_is_plain(gateway: Gateway, client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one")]
    response = await transcribe(gateway, response_format="text")
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == "one"
    file = ("a.wav", WAV)
    answer = await client.audio.transcriptions.create(model="org/demo-speech", file=file, response_format="text")
    assert str(answer) == "one"
    assert list(fake.requests[0].tensors) == ["audio"], "the only speech model needs no name"


async def test_bad_forms_name_the_field(gateway: Gateway) -> None:
    cases: dict[str, Any] = {"response_format": "srt", "model": "demo", "file": b""}
    for param, value in cases.items():
        response = await transcribe(gateway, **{param: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_not_a_form(gateway: Gateway) -> None:
    for request in (
        {"data": {"model": "x"}},
        {"json": {"file": "x"}},
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        {"files": {"file": (None, "a text field")}},
    ):
        response = await gateway.http.post("/v1/audio/transcriptions", **request)
        assert response.status_code == 400, response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_unknown_model_and_bad_audio(gateway: Gateway, fake: FakeTriton) -> None:
    assert (await transcribe(gateway, model="x")).json()["error"]["code"] == "model_not_found"
    fake.script = lambda received: [Fail("[INVALID_ARGUMENT] audio: not a sound file")]
    response = await transcribe(gateway)
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "file: not a sound file",
        "type": "invalid_request_error",
        "param": "file",
        "code": "invalid_value",
    }
    fake.script = lambda received: [transcript("half", finish="")]
    assert (await transcribe(gateway)).status_code == 502


async def test_large_files(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(max_audio_bytes=2000)
    fake.script = lambda received: [transcript("one")]
    assert (await transcribe(gateway, b"x" * 2000)).status_code == 200
    assert (await transcribe(gateway, b"x" * 2001)).status_code == 413
    assert (await transcribe(gateway, b"x" * 2_000_000)).status_code == 413


async def test_client_that_leaves_cancels(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [Hang()]
    asking = asyncio.ensure_future(transcribe(gateway))
    received = await fake.next_request()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(received.cancelled.wait(), 1)


async def test_dead_step_fails_the_ensemble(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(watch_interval_s=0.02)
    fake.script = lambda received: [Hang()]
    asking = asyncio.ensure_future(transcribe(gateway))
    await fake.next_request()
    fake.entries["whisper"].state = "UNAVAILABLE"
    response = await asyncio.wait_for(asking, 1)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
