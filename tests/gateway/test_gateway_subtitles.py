"""Subtitles are read by parsers that others wrote; every event of a streamed transcript is typed by OpenAI's client."""

from __future__ import annotations

import html
import json
from itertools import pairwise
from typing import Any

import openai
import pytest
import srt
import webvtt
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from tests.fake_triton import FakeTriton, transcript
from tests.gateway.test_gateway_audio import segment

WAV = ("a.wav", b"RIFF....WAVE" + bytes(100))
TEXTS = [
    "one",
    "R&D <i>slanted</i> -> 3 > 2",
    "a\n\nb --> c",
    "Grüße, 你好 🎧",
    "1\n00:00:00,000 --> 00:00:09,000\nx",
    "end",
]
MOMENTS = [0.0, 0.0, 59.9996, 61.5, 3599.999, 36_000.25, 36_000.25]
# White space is one space, and an arrow is shortened: it would begin a new cue.
SHOWN = [" ".join(text.split()).replace("-->", "->") for text in TEXTS]


@pytest.fixture
def script(fake: FakeTriton) -> None:
    times = list(pairwise(MOMENTS))
    cues = [segment(number, *times[number], f" {text}") for number, text in enumerate(TEXTS)]
    fake.script = lambda received: [transcript("".join(TEXTS), segments=json.dumps(cues))]


async def subtitles(client: openai.AsyncOpenAI, form: Any) -> str:
    return str(await client.audio.transcriptions.create(model="org/demo-speech", file=WAV, response_format=form))


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def check_times(times: list[tuple[float, float]]) -> None:
    assert [start for start, _ in times] == pytest.approx(MOMENTS[:-1], abs=0.001)
    assert [end for _, end in times] == pytest.approx(MOMENTS[1:], abs=0.0015)
    assert all(start < end for start, end in times), "a cue without duration is not shown"


async def test_srt(client: openai.AsyncOpenAI, script: None) -> None:
    cues = list(srt.parse(await subtitles(client, "srt"), ignore_errors=False))
    assert [cue.index for cue in cues] == list(range(1, len(TEXTS) + 1))
    assert [cue.content for cue in cues] == SHOWN
    check_times([(cue.start.total_seconds(), cue.end.total_seconds()) for cue in cues])


async def test_vtt(client: openai.AsyncOpenAI, script: None) -> None:
    cues = list(webvtt.from_string(await subtitles(client, "vtt")))
    # The library leaves the entities as they are; a browser shows what they stand for.
    assert [html.unescape(cue.raw_text) for cue in cues] == SHOWN
    assert not any("<" in cue.raw_text for cue in cues)
    check_times([(seconds(cue.start), seconds(cue.end)) for cue in cues])


async def test_every_event_of_a_stream_has_a_type_of_the_client(client: openai.AsyncOpenAI, fake: FakeTriton) -> None:
    sure = '[{"token": "a", "logprob": -0.5, "bytes": [97]}]'
    fake.script = lambda received: [transcript("a", "", logprobs=sure), transcript(" b", logprobs=sure)]
    stream = await client.audio.transcriptions.create(
        model="org/demo-speech", file=WAV, stream=True, include=["logprobs"]
    )
    events = [event async for event in stream]
    kinds = [TranscriptionTextDeltaEvent, TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent]
    assert [type(event) for event in events] == kinds
    for event in events:
        assert not event.model_extra and not (event.logprobs or [])[0].model_extra
        # What was not of its type would have been kept as it came.
        type(event).model_validate(event.model_dump())
