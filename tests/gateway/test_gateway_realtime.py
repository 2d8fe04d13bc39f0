"""Realtime transcription through the official client: manual turns, detected turns, partial results, refusals."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import openai
import pytest

from gateway.realtime.partials import AgreedText
from gateway.realtime.sound import FORMATS, SoundBuffer
from gateway.realtime.turns import TurnDetector
from tests.fake_triton import Fail, FakeTriton, Received, transcript
from tests.gateway.conftest import Gateway, StartGateway

RATE = 24_000
MANUAL = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


def voice(seconds: float, rate: int = RATE) -> np.ndarray[Any, Any]:
    """What the detection takes for a voice: pulses at 120 Hz through a resonance, int16."""
    times = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * number * times) / number for number in range(1, 20))
    loudness = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * times)
    return (buzz * loudness * 6000).astype("<i2")


def silence(seconds: float, rate: int = RATE) -> np.ndarray[Any, Any]:
    return np.zeros(round(seconds * rate), "<i2")


@asynccontextmanager
async def session(gateway: Gateway, settings: dict[str, Any] | None = None, **query: Any) -> AsyncIterator[Any]:
    """A connection of the official client, after session.created, and session.updated if there are settings."""
    address = gateway.base_url.replace("http", "ws") + "/v1"
    async with openai.AsyncOpenAI(base_url=gateway.base_url, websocket_base_url=address, api_key="unused") as client:
        options: Any = {"model": "org/demo-speech", **query}
        async with client.realtime.connect(**options) as connection:
            assert (await connection.recv()).type == "session.created"
            if settings is not None:
                await connection.session.update(session=settings)
                assert (await connection.recv()).type == "session.updated"
            yield connection


async def say(connection: Any, samples: np.ndarray[Any, Any]) -> None:
    await connection.input_audio_buffer.append(audio=base64.b64encode(samples.tobytes()).decode())


async def events_until(connection: Any, kind: str) -> list[Any]:
    found: list[Any] = []
    while not found or found[-1].type != kind:
        found.append(await asyncio.wait_for(connection.recv(), 10))
    return found


async def _all_gone(gateway: Gateway) -> None:
    while gateway.services.admission.running:
        await asyncio.sleep(0.01)


COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


async def test_a_committed_turn_is_transcribed(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one two", finish=""), transcript(" three", duration=1.5)]
    speech = {"model": "org/demo-speech", "language": "en", "prompt": "digits"}
    settings = {"type": "transcription", "audio": {"input": {"turn_detection": None, "transcription": speech}}}
    async with session(gateway, settings) as connection:
        await say(connection, voice(0.5))
        await connection.input_audio_buffer.commit()
        events = await events_until(connection, COMPLETED)
    committed, added, delta, completed = events
    assert [event.type for event in events[:3]] == ["input_audio_buffer.committed", "conversation.item.added", DELTA]
    assert {committed.item_id, added.item.id, delta.item_id, completed.item_id} == {committed.item_id}
    assert (delta.delta, completed.transcript) == ("one two three", "one two three")
    assert completed.usage.model_dump() == {"type": "duration", "seconds": 2}
    received = fake.requests[-1]
    (wav,) = received.tensors["audio"]
    assert wav == FORMATS["pcm16"].wav(voice(0.5).tobytes())
    assert (received.tensors["language"], received.tensors["prompt"]) == ([b"en"], [b"digits"])
    assert "temperature" not in received.tensors
    await asyncio.wait_for(_all_gone(gateway), 5)


async def test_partial_results_come_while_somebody_speaks(gateway: Gateway, fake: FakeTriton) -> None:
    """Two readings that agree are told; a word that may go on is not."""

    def read(received: Received) -> list[Any]:
        seconds = len(received.tensors["audio"][0]) / 2 / RATE
        words = ["one", "two", "three", "four", "five"]
        return [transcript(" ".join(words[: int(seconds)]))]

    fake.script = read
    async with session(gateway, MANUAL) as connection:
        deltas: list[str] = []
        for second in range(1, 4):
            await say(connection, voice(1.0))
            while len(fake.requests) < second:
                await asyncio.sleep(0.01)
        for _ in range(2):
            deltas += [event.delta for event in await events_until(connection, DELTA)]
        assert deltas == ["one", " two"]
        assert fake.requests[0].tensors["temperature"] == [0.0]
        await say(connection, voice(1.0))
        await connection.input_audio_buffer.commit()
        events = await events_until(connection, COMPLETED)
    deltas += [event.delta for event in events if event.type == DELTA]
    assert "".join(deltas) == events[-1].transcript == "one two three four"


async def test_turns_are_detected(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one")]
    async with session(gateway, {"type": "transcription"}) as connection:
        for samples in (silence(1), voice(1), silence(1), voice(1), silence(1)):
            for part in np.array_split(samples, 7):
                await say(connection, part)
        first = await events_until(connection, COMPLETED)
        second = await events_until(connection, COMPLETED)
    kinds = [event.type for event in [*first, *second] if event.type.startswith("input_audio_buffer")]
    names = ("speech_started", "speech_stopped", "committed")
    assert kinds == [f"input_audio_buffer.{name}" for name in (*names, *names)]
    started = next(event for event in first if event.type.endswith("started"))
    stopped = next(event for event in first if event.type.endswith("stopped"))
    assert 500 <= started.audio_start_ms <= 900, "the padding before the first word is 300 ms"
    assert 2300 <= stopped.audio_end_ms <= 2800
    assert started.item_id == stopped.item_id == first[-1].item_id
    committed = [event for event in [*first, *second] if event.type.endswith("committed")]
    assert committed[1].previous_item_id == committed[0].item_id


async def test_the_older_shape_of_settings(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one")]
    async with session(gateway) as connection:
        older = {"input_audio_format": "g711_ulaw", "input_audio_transcription": {"language": "de"}}
        await connection.send({"type": "transcription_session.update", "session": {**older, "turn_detection": None}})
        answer = await connection.recv_bytes()
        assert b'"transcription_session.updated"' in answer and b'"audio/pcmu"' in answer
        await connection.input_audio_buffer.append(audio=base64.b64encode(bytes(8000)).decode())
        await connection.input_audio_buffer.commit()
        await events_until(connection, COMPLETED)
    (wav,) = fake.requests[-1].tensors["audio"]
    assert wav[20:24] == b"\x07\x00\x01\x00", "a WAV header that says mu-law and one channel"


BAD_EVENTS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"type": "response.create"}, "type", "unsupported"),
    ({"type": "input_audio_buffer.append", "audio": "?"}, "audio", "invalid_value"),
    ({"type": "input_audio_buffer.append"}, "audio", "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(9_000_000)).decode()}, "audio", "full"),
    ({"type": "input_audio_buffer.commit"}, None, "input_audio_buffer_commit_empty"),
    ({"type": "session.update", "session": {"type": "realtime"}}, "session.type", "unsupported"),
    ({"type": "session.update", "session": {"turn_detection": {"threshold": 2}}}, "threshold", "invalid_value"),
    ({"type": "session.update", "session": {"audio": {"input": {"format": "mp3"}}}}, "format", "invalid_value"),
    ({"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "x"}}}}}, "model", "model"),
]


@pytest.mark.parametrize(("event", "param", "code"), BAD_EVENTS)
async def test_bad_events_are_answered_and_the_session_goes_on(
    gateway: Gateway, event: dict[str, Any], param: str | None, code: str
) -> None:
    async with session(gateway, MANUAL) as connection:
        await connection.send({**event, "event_id": "mine"})
        error = (await asyncio.wait_for(connection.recv(), 10)).error
        assert error.event_id == "mine"
        assert (error.param or "").endswith(param or "") and code in error.code
        await connection.input_audio_buffer.clear()
        assert (await connection.recv()).type == "input_audio_buffer.cleared"


async def test_a_model_that_fails_fails_the_item_only(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [Fail("[UNAVAILABLE] no")]
    async with session(gateway, MANUAL) as connection:
        await say(connection, silence(0.3))
        await connection.input_audio_buffer.commit()
        failed = (await events_until(connection, "conversation.item.input_audio_transcription.failed"))[-1]
        assert failed.error.code == "unavailable"
        fake.script = lambda received: [transcript("one")]
        await say(connection, silence(0.3))
        await connection.input_audio_buffer.commit()
        assert (await events_until(connection, COMPLETED))[-1].transcript == "one"


async def test_a_full_house_is_said_and_the_door_closed(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(max_concurrency=1)
    address = gateway.base_url.replace("http", "ws") + "/v1"
    client = openai.AsyncOpenAI(base_url=gateway.base_url, websocket_base_url=address, api_key="x")
    async with session(gateway), client, client.realtime.connect(model="org/demo-speech") as second:
        error: Any = await second.recv()
        assert (error.type, error.error.code) == ("error", "rate_limit_exceeded")


def test_agreed_text_is_never_taken_back() -> None:
    text = AgreedText()
    readings = ["one tw", "one two", "one two three", "one two free", "one two free four"]
    assert [text.read(reading) for reading in readings] == ["", "one", " two", "", " free"]
    assert text.finish("one two free four five") == " four five"
    assert AgreedText().finish("all at once") == "all at once"
    cjk = AgreedText()
    assert [cjk.read("今日は"), cjk.read("今日はい"), cjk.finish("昨日")] == ["", "今日は", ""]
    assert text.told == "one two free four five"


def test_the_buffer_is_bounded_and_forgets() -> None:
    buffer = SoundBuffer(FORMATS["pcm16"], max_s=1.0)
    buffer.append(bytes(24_000))
    assert (buffer.duration_ms, buffer.fits(bytes(24_000)), buffer.fits(bytes(24_001))) == (500, True, False)
    buffer.forget_before(200)
    assert (buffer.start_ms, buffer.end_ms, len(buffer.since(400))) == (200, 500, 100 * 48)
    buffer.forget_before(10_000)
    assert repr(buffer) == "<SoundBuffer 0 ms from 500 ms on>"


@pytest.mark.parametrize(
    ("name", "codes"), [("g711_ulaw", [0x00, 0x7F, 0x80, 0xFF]), ("g711_alaw", [0x2A, 0xD5, 0xAA, 0x55])]
)
def test_telephone_codes(name: str, codes: list[int]) -> None:
    """The ends and the middle of the tables of ITU-T G.711."""
    wanted = {"g711_ulaw": [-32124, 0, 32124, 0], "g711_alaw": [-32256, 8, 32256, -8]}
    assert FORMATS[name].for_detection(bytes(codes)).tolist() == wanted[name]


def test_a_click_is_no_turn() -> None:
    detector = TurnDetector(0.5, silence_ms=300, start_ms=0)
    click = np.zeros(8000, "<i2")
    click[4000:4200] = 20_000
    assert detector.feed(click) == []
    assert repr(detector) == "<TurnDetector silence at 990 ms>"
