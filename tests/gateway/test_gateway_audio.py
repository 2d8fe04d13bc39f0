"""Transcriptions and translations: the form, every format, the stream, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from tests.fake_triton import Fail, FakeTriton, Hang, Wait, transcript
from tests.gateway.conftest import Gateway, StartGateway

WAV = b"RIFF....WAVE" + bytes(1000)
WORDS = [{"word": "one", "start": 0.1, "end": 0.5}, {"word": "two", "start": 0.5, "end": 1.0}]


def segment(number: int, start: float, end: float, text: str, **more: Any) -> dict[str, Any]:
    """As `whisper` sends it."""
    sureness = {"temperature": 0.0, "avg_logprob": -0.25, "compression_ratio": 0.75, "no_speech_prob": 0.01}
    return {"id": number, "seek": 0, "start": start, "end": end, "text": text, "tokens": [7, 8], **sureness, **more}


def spoken(*segments: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    text = "".join(each["text"] for each in segments)
    return transcript(text, finish=finish, segments=json.dumps(segments), **more)


async def transcribe(
    gateway: Gateway, file: bytes = WAV, path: str = "transcriptions", **fields: Any
) -> httpx.Response:
    return await gateway.http.post(f"/v1/audio/{path}", data=fields, files={"file": ("a.wav", file)})


async def test_json(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one two", finish=""), transcript(" three")]
    answer = await client.audio.transcriptions.create(
        model="org/demo-speech", file=("a.wav", WAV), language="en", prompt="digits", temperature=0.5
    )
    assert answer.text == "one two three"
    assert answer.model_dump(exclude_none=True)["usage"] == {"type": "duration", "seconds": 3}
    received = fake.requests[0]
    assert received.model == "whisper", "called directly: a cancel does not pass through an ensemble"
    sent = {"audio": [WAV], "language": [b"en"], "prompt": [b"digits"], "temperature": [0.5], "stream": [True]}
    assert received.tensors == sent


async def test_temperature_0_lets_the_model_raise_it(gateway: Gateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one")]
    await transcribe(gateway, temperature="0")
    assert "temperature" not in fake.requests[0].tensors


async def test_text_is_plain(gateway: Gateway, client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one")]
    response = await transcribe(gateway, response_format="text")
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == "one"
    file = ("a.wav", WAV)
    answer = await client.audio.transcriptions.create(model="org/demo-speech", file=file, response_format="text")
    assert str(answer) == "one"
    assert set(fake.requests[0].tensors) == {"audio", "stream"}, "the only speech model needs no name"


async def test_verbose_json_has_segments_and_words(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    first, second = segment(0, 0.0, 1.0, " one two", words=WORDS), segment(1, 1.5, 2.25, " three", words=[])
    fake.script = lambda received: [spoken(first, finish="", duration=1.0), spoken(second)]
    ask = client.audio.transcriptions.create
    file = ("a.wav", WAV)
    answer = await ask(
        model="org/demo-speech",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (answer.text, answer.language, answer.duration) == ("one two three", "english", 2.25)
    assert answer.words is not None and [word.model_dump() for word in answer.words] == WORDS
    assert answer.segments is not None
    assert [each.model_dump() for each in answer.segments] == [
        segment(0, 0.0, 1.0, " one two"),
        segment(1, 1.5, 2.25, " three"),
    ]
    assert answer.usage is not None and answer.usage.seconds == 3
    tensors = fake.requests[0].tensors
    assert (tensors["timestamps"], tensors["word_timestamps"]) == ([True], [True])
    plain = await ask(model="org/demo-speech", file=file, response_format="verbose_json")
    assert (plain.words, len(plain.segments or [])) == (None, 2)
    assert "word_timestamps" not in fake.requests[1].tensors
    only_words = await ask(
        model="org/demo-speech", file=file, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert (len(only_words.words or []), only_words.segments) == (2, None)


SRT = """1
00:00:00,000 --> 00:00:01,500
one & <two>

2
01:01:01,010 --> 01:01:01,011
a -> b
"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:01.500
one &amp; &lt;two>

01:01:01.010 --> 01:01:01.011
a -> b
"""


@pytest.mark.parametrize(("form", "wanted"), [("srt", SRT), ("vtt", VTT)])
async def test_subtitles(client: openai.AsyncOpenAI, fake: FakeTriton, form: Any, wanted: str) -> None:
    cues = segment(0, 0, 1.5, " one &\n\n<two>"), segment(1, 9, 10, " "), segment(2, 3661.01, 3661.01, " a --> b")
    fake.script = lambda received: [spoken(*cues)]
    answer = await client.audio.transcriptions.create(
        model="org/demo-speech", file=("a.wav", WAV), response_format=form
    )
    assert str(answer) == wanted
    assert fake.requests[0].tensors["timestamps"] == [True]


async def test_translations(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [spoken(segment(0, 0, 2, " hello"), audio_language_name="german")]
    file = ("a.wav", WAV)
    # The client calls the route old; it is still the only one that translates.
    with pytest.warns(DeprecationWarning):
        create: Any = client.audio.translations.create
        answer = await create(model="org/demo-speech", file=file, prompt="greetings")
        verbose = await create(model="org/demo-speech", file=file, response_format="verbose_json")
        text = await create(model="org/demo-speech", file=file, response_format="srt")
    assert answer.text == "hello"
    assert fake.requests[0].tensors["task"] == [b"translate"]
    assert (verbose.language, len(verbose.segments or [])) == ("english", 1)
    assert "00:00:02,000\nhello" in str(text)


async def test_log_probabilities(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    sure = [{"token": " one", "logprob": -0.5, "bytes": [32, 111, 110, 101]}]
    fake.script = lambda received: [transcript("one", logprobs=json.dumps(sure))]
    answer = await client.audio.transcriptions.create(
        model="org/demo-speech", file=("a.wav", WAV), include=["logprobs"], response_format="json"
    )
    assert answer.logprobs is not None and answer.logprobs[0].logprob == -0.5
    assert fake.requests[0].tensors["return_log_probs"] == [True]


async def test_stream_sends_what_the_official_client_types(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [
        transcript("one two", finish="", logprobs="[]"),
        Wait(0.3),
        transcript(" three", logprobs="[]"),
    ]
    stream = await client.audio.transcriptions.create(
        model="org/demo-speech", file=("a.wav", WAV), stream=True, include=["logprobs"]
    )
    times, events = [], []
    async for event in stream:
        times.append(asyncio.get_running_loop().time())
        events.append(event)
    kinds = ["transcript.text.delta", "transcript.text.delta", "transcript.text.done"]
    assert [event.type for event in events] == kinds
    assert [event.delta for event in events if event.type == "transcript.text.delta"] == ["one two", " three"]
    assert times[1] - times[0] > 0.15, "the first part comes while the rest is still worked on"
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert (done.text, done.logprobs) == ("one two three", [])
    assert done.usage is not None
    counts = (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens)
    assert counts == (117, 4, 121)
    assert done.usage.input_token_details is not None and done.usage.input_token_details.audio_tokens == 113


async def test_an_error_in_a_stream_is_its_last_event(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one", finish=""), Fail("[INVALID_ARGUMENT] audio: too long")]
    stream = await client.audio.transcriptions.create(model="org/demo-speech", file=("a.wav", WAV), stream=True)
    with pytest.raises(openai.APIError, match="file: too long"):
        async for _ in stream:
            pass
    fake.script = lambda received: [Fail("[INVALID_ARGUMENT] audio: no sound")]
    with pytest.raises(openai.BadRequestError, match="no sound"):
        await client.audio.transcriptions.create(model="org/demo-speech", file=("a.wav", WAV), stream=True)


async def test_chunking_strategy_reaches_the_model(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    fake.script = lambda received: [transcript("one")]
    create, file = client.audio.transcriptions.create, ("a.wav", WAV)
    await create(model="org/demo-speech", file=file, chunking_strategy="auto")
    await create(
        model="org/demo-speech", file=file, chunking_strategy={"type": "server_vad", "silence_duration_ms": 400}
    )
    sent = [json.loads(received.tensors["chunking_strategy"][0]) for received in fake.requests]
    assert sent == ["auto", {"type": "server_vad", "silence_duration_ms": 400.0}]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": "diarized_json"}, "response_format"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
    ({"timestamp_granularities[]": "word", "response_format": "srt"}, "timestamp_granularities"),
    ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities.0"),
    ({"include[]": "logprobs", "response_format": "text"}, "include"),
    ({"include[]": "everything"}, "include.0"),
    ({"stream": "true", "response_format": "verbose_json"}, "stream"),
    ({"stream": "perhaps"}, "stream"),
    ({"temperature": "2"}, "temperature"),
    ({"temperature": "warm"}, "temperature"),
    ({"known_speaker_names[]": "Ann"}, "known_speaker_names[]"),
    ({"model": "demo"}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS)
async def test_bad_forms_name_the_field(gateway: Gateway, fields: dict[str, Any], param: str) -> None:
    response = await transcribe(gateway, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


async def test_an_empty_file_is_refused(gateway: Gateway) -> None:
    for path in ("transcriptions", "translations"):
        response = await transcribe(gateway, b"", path)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "file")


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


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}])
async def test_client_that_leaves_cancels(gateway: Gateway, fake: FakeTriton, fields: dict[str, str]) -> None:
    fake.script = lambda received: [transcript("one", finish=""), Hang()]
    asking = asyncio.ensure_future(transcribe(gateway, **fields))
    received = await fake.next_request()
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(received.cancelled.wait(), 5)
    assert gateway.services.admission.running == 0


async def test_dead_entry_fails_the_request(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(watch_interval_s=0.02)
    fake.script = lambda received: [Hang()]
    asking = asyncio.ensure_future(transcribe(gateway))
    await fake.next_request()
    fake.entries["whisper"].state = "UNAVAILABLE"
    response = await asyncio.wait_for(asking, 5)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
