"""Speech through the official client and NVIDIA's, of digits spoken when the test runs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import threading
import time
from itertools import pairwise
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import psutil
import pytest
import soundfile
import soxr

from tests.conftest import System
from tests.native import infer, stream, text
from tests.speech import DIGITS, say, words
from tests.utterances import file_of, found_of, recording, utterances

pytestmark = pytest.mark.triton

Array = np.ndarray[Any, Any]
MODEL = "demo-whisper"


def samples_of(wav: bytes, rate: int = 16_000) -> Array:
    """float32 [n] at `rate`."""
    found, own_rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return np.asarray(soxr.resample(found, own_rate, rate), np.float32)


def wav_of(samples: Array, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def digits(dice: random.Random, num: int) -> str:
    return " ".join(dice.choices(DIGITS, k=num))


def long_recording(dice: random.Random, phrases: int, pause_s: float = 1.2) -> tuple[str, bytes]:
    """What is said, and the recording: phrases of five digits with pauses between."""
    # No digit twice in a phrase: the small model is weak at repetitions, and the seams are in question here.
    said = [" ".join(dice.sample(DIGITS, 5)) for _ in range(phrases)]
    pause = np.zeros(round(pause_s * 16_000), np.float32)
    parts = [part for phrase in said for part in (samples_of(say(phrase)), pause)]
    return " ".join(said), wav_of(np.concatenate(parts))


def transcribe(client: openai.OpenAI, wav: bytes, **options: Any) -> Any:
    return client.audio.transcriptions.create(model=MODEL, file=("speech.wav", wav), language="en", **options)


def test_fresh_digit_strings_have_few_word_errors(client: openai.OpenAI) -> None:
    dice = random.Random(2031)
    truths, heard = [], []
    for number in range(10):
        truth = digits(dice, dice.randint(2, 7))
        voice = ("en-us", "en-gb")[number % 2]
        truths.append(truth)
        heard.append(" ".join(words(transcribe(client, say(truth, voice, dice.randint(130, 180))).text)))
    assert jiwer.wer(truths, heard) <= 0.05, list(zip(truths, heard, strict=True))


def test_the_text_changes_with_the_recording(client: openai.OpenAI) -> None:
    assert words(transcribe(client, say("one two three")).text) == ["one", "two", "three"]
    assert words(transcribe(client, say("nine eight seven")).text) == ["nine", "eight", "seven"]


def test_text_format_is_plain_text(system: System) -> None:
    reply = httpx.post(
        f"http://{system.http}/v1/audio/transcriptions",
        files={"file": ("speech.wav", say("four five six"))},
        data={"model": MODEL, "response_format": "text", "language": "en"},
        timeout=60,
    )
    assert reply.headers["content-type"].startswith("text/plain")
    assert words(reply.text) == ["four", "five", "six"]


def test_the_language_is_heard_and_told(client: openai.OpenAI) -> None:
    found: Any = client.audio.transcriptions.create(
        model=MODEL, file=("speech.wav", say("one two three four")), response_format="verbose_json"
    )
    assert found.language == "english"
    assert words(found.text) == ["one", "two", "three", "four"]


def test_words_and_segments_have_times(client: openai.OpenAI) -> None:
    pause = np.zeros(round(1.5 * 16_000), np.float32)
    first, second = samples_of(say("one two three")), samples_of(say("seven eight"))
    wav = wav_of(np.concatenate([first, pause, second]))
    granularities = ["word", "segment"]
    found = transcribe(client, wav, response_format="verbose_json", timestamp_granularities=granularities)
    assert [word.word for word in found.words] == ["one", "two", "three", "seven", "eight"]
    starts = [word.start for word in found.words]
    assert starts == sorted(starts)
    assert found.words[2].start < len(first) / 16_000
    assert found.words[3].start == pytest.approx(len(first) / 16_000 + 1.5, abs=0.6)
    assert found.segments[-1].end == pytest.approx(found.duration, abs=1.0)
    assert found.usage.seconds == np.ceil(found.duration)


@pytest.mark.parametrize(("form", "mark"), [("srt", "1\n00:00:00"), ("vtt", "WEBVTT\n\n00:00:00")])
def test_subtitles(client: openai.OpenAI, form: Any, mark: str) -> None:
    found = str(transcribe(client, say("one two three"), response_format=form))
    assert found.startswith(mark)
    assert words(found.splitlines()[-1]) == ["one", "two", "three"]


def test_a_long_recording_loses_and_doubles_nothing(client: openai.OpenAI) -> None:
    """Two minutes: every region ends in a pause, and the stream comes in parts."""
    said = utterances(seed=5, number=30)
    wav = file_of(recording(said, pause_s=1.2))
    whole = transcribe(client, wav)
    assert found_of(said, whole.text)[0] == []
    assert found_of(said, whole.text)[1] < 4, "no utterance twice"
    events = list(transcribe(client, wav, stream=True))
    deltas = [event.delta for event in events[:-1]]
    assert len(deltas) >= 2, "regions are told two at a time"
    assert events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text
    # The first piece of a stream is shorter, and the model may hear a word in it otherwise.
    assert jiwer.wer(whole.text, events[-1].text.strip()) <= 0.05
    assert events[-1].usage.input_token_details.audio_tokens == pytest.approx(len(samples_of(wav)) / 320, rel=0.01)


def test_log_probabilities_of_the_text(client: openai.OpenAI) -> None:
    found = transcribe(client, say("one two"), include=["logprobs"], response_format="json")
    assert "".join(each.token for each in found.logprobs).strip() == found.text
    assert all(each.logprob <= 0 for each in found.logprobs)


def test_short_requests_do_not_wait_for_a_long_one(client: openai.OpenAI) -> None:
    _, wav = long_recording(random.Random(6), 60)
    ended: list[float] = []

    def long() -> None:
        transcribe(client, wav)
        ended.append(time.monotonic())

    thread = threading.Thread(target=long)
    thread.start()
    for _ in range(3):
        assert words(transcribe(client, say("five six")).text) == ["five", "six"]
    short_ended = time.monotonic()
    thread.join(120)
    assert ended and short_ended < ended[0]


def test_a_client_that_leaves_frees_the_model(system: System, client: openai.OpenAI) -> None:
    _, wav = long_recording(random.Random(7), 60)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).audio.transcriptions.create(model=MODEL, file=("speech.wav", wav))
    started = time.monotonic()
    transcribe(client, say("one"))
    alone = time.monotonic() - started
    assert alone < 10


def test_nvidias_whisper_client(system: System) -> None:
    """As NVIDIA's example calls it: filled up to ten seconds, unary and on a stream."""
    samples = samples_of(say("four five six"))
    filled = np.zeros((1, 160_000), np.float32)
    filled[0, : len(samples)] = samples
    inputs = {
        "WAV": filled,
        "WAV_LENS": np.array([[len(samples)]], np.int32),
        "TEXT_PREFIX": text("<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"),
    }
    assert words(infer(system.grpc, "whisper_bls", inputs)["TRANSCRIPTS"].item().decode()) == ["four", "five", "six"]
    (last,) = stream(system.grpc, "whisper_bls", {**inputs, "TEXT_PREFIX": text("")})
    assert words(last["TRANSCRIPTS"].item().decode()) == ["four", "five", "six"]
    with pytest.raises(Exception, match=r"\[INVALID_ARGUMENT\] TEXT_PREFIX: 'xx' is not a language"):
        infer(system.grpc, "whisper_bls", {**inputs, "TEXT_PREFIX": text("<|startoftranscript|><|xx|>")})


def test_a_decode_worker_that_dies_is_replaced(system: System, client: openai.OpenAI) -> None:
    transcribe(client, say("one"))
    children = psutil.Process(system.process.pid).children(recursive=True)
    workers = [child for child in children if "decode_worker" in " ".join(child.cmdline())]
    assert workers
    for worker in workers:
        worker.kill()
    assert words(transcribe(client, say("two three")).text) == ["two", "three"]


def test_realtime_sessions(system: System) -> None:
    """Two turns, detected; partial results come before the end of the turn is sent."""
    speech = [samples_of(say(phrase), 24_000) for phrase in ("one two three four", "five six")]
    pause = np.zeros(24_000, np.float32)
    sound = np.concatenate([part for phrase in speech for part in (phrase, pause)])
    data = (sound * 32767).astype("<i2").tobytes()
    transcripts, kinds = asyncio.run(_converse(system, data))
    assert [words(transcript) for transcript in transcripts] == [["one", "two", "three", "four"], ["five", "six"]]
    assert kinds.count("input_audio_buffer.speech_started") == 2


async def _converse(system: System, data: bytes) -> tuple[list[str], list[str]]:
    """Transcripts of two turns and the types of all events, for sound sent in tenths of a second."""
    address = f"ws://{system.http}/v1"
    speech: Any = {"audio": {"input": {"transcription": {"model": MODEL, "language": "en"}}}}
    transcripts, kinds = [], []
    client = openai.AsyncOpenAI(base_url=f"http://{system.http}/v1", websocket_base_url=address, api_key="none")
    async with client, client.realtime.connect(model=MODEL) as connection:
        await connection.session.update(session={"type": "transcription", **speech})
        for start in range(0, len(data), 4800):
            await connection.input_audio_buffer.append(audio=base64.b64encode(data[start : start + 4800]).decode())
        while len(transcripts) < 2:
            event: Any = await asyncio.wait_for(connection.recv(), 60)
            kinds.append(event.type)
            if event.type == "conversation.item.input_audio_transcription.completed":
                transcripts.append(event.transcript)
    return transcripts, kinds


def test_what_is_not_audio_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="WAV"):
        transcribe(client, b"this is no recording")


def test_native_streams_have_segments_as_they_are_found(system: System) -> None:
    _, wav = long_recording(random.Random(8), 12)
    responses = stream(
        system.grpc, "whisper", {"audio": text(wav), "stream": np.array([[True]]), "timestamps": np.array([[True]])}
    )
    assert len(responses) >= 2
    assert [response["finish_reason"].item() for response in responses] == [b""] * (len(responses) - 1) + [b"stop"]
    segments = [each for response in responses for each in json.loads(response["segments"].item())]
    assert [each["id"] for each in segments] == list(range(len(segments)))
    assert all(one["end"] <= other["start"] + 0.5 for one, other in pairwise(segments))
