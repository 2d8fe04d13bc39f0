"""What a native gRPC client gets from the entries for images, speech and tokens."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.backends.vision.test_videos import film
from tests.conftest import System
from tests.native import infer, number, stream, text
from tests.pictures import draw
from tests.speech import say, words

pytestmark = pytest.mark.triton

Array = np.ndarray[Any, Any]


def transcribe(triton: System, audio: bytes, **options: Array) -> dict[str, Any]:
    """The one response of `transcription`, text decoded."""
    (response,) = stream(triton.grpc, "transcription", {"audio": text(audio), **options})
    return {
        name: value.decode() if isinstance(value := array.item(), bytes) else value for name, array in response.items()
    }


def test_the_vision_ensemble_is_its_two_steps(triton: System) -> None:
    picture = {"image": text(draw(("red", "circle")))}
    pixels = infer(triton.grpc, "image_frontend", picture)
    assert pixels["pixel_values"].shape == (1, pixels["pixel_shape"].prod())
    assert pixels.pop("image_prompt").item() == b"", "this family writes placeholders only"
    assert pixels.pop("seconds_per_grid").item() == 0, "an image"
    features = infer(triton.grpc, "vision_encoder", pixels)["features"]
    together = infer(triton.grpc, "vision", picture)
    assert np.array_equal(together["image_grid"], pixels["image_grid"])
    assert np.array_equal(together["features"], features)
    assert features.dtype == np.float32
    assert features.shape[1] == pixels["image_grid"].prod() // 4


def test_pictures_of_many_sizes_at_once_get_their_own_features(triton: System) -> None:
    sizes = [(448, 336), (224, 224), (100, 300), (336, 448), (64, 64), (640, 480)]
    pictures = [draw(("blue", "square"), size=size) for size in sizes]
    alone = [infer(triton.grpc, "vision", {"image": text(picture)})["features"] for picture in pictures]
    together: dict[int, Array] = {}

    def ask(place: int) -> None:
        together[place] = infer(triton.grpc, "vision", {"image": text(pictures[place])})["features"]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for place, features in enumerate(alone):
        assert np.abs(features - together[place]).max() < 1e-4


def test_an_image_may_be_asked_for_smaller(triton: System) -> None:
    picture = {"image": text(draw(("red", "circle"), size=(600, 600)))}
    whole = infer(triton.grpc, "vision", picture)["image_grid"]
    small = infer(triton.grpc, "vision", {**picture, "max_pixels": number(112 * 112, np.int64)})["image_grid"]
    assert small.prod() < whole.prod()
    with pytest.raises(InferenceServerException, match=r"\[INVALID_ARGUMENT\] max_pixels: must not be negative"):
        infer(triton.grpc, "vision", {**picture, "max_pixels": number(-1, np.int64)})


def test_a_video_goes_the_way_of_an_image(triton: System) -> None:
    video = {"video": text(film())}
    found = infer(triton.grpc, "vision", {**video, "fps": number(2, np.float32)})
    num_features = found["features"].shape[1]
    assert found["image_grid"][0, 0] == 3 and found["image_grid"].prod() == 4 * num_features
    assert found["seconds_per_grid"].item() == 1.0
    prompt = text("<|vision_start|><|video_pad|><|vision_end|>")
    last = stream(triton.grpc, "llm", {"text_input": prompt, **video, "max_tokens": number(4, np.int32)})[-1]
    assert last["num_image_tokens"].item() == num_features
    with pytest.raises(InferenceServerException, match=r"\[INVALID_ARGUMENT\] image: exactly one of image and video"):
        infer(triton.grpc, "vision", {**video, "image": text(draw(("red", "circle")))})


@pytest.mark.slow
def test_encoding_one_image_overlaps_decoding_another(triton: System) -> None:
    pictures = [{"image": text(draw(("red", "circle"), size=(1600 + 8 * place, 1200)))} for place in range(6)]

    def ask(picture: dict[str, Array]) -> None:
        infer(triton.grpc, "vision", picture)

    def seconds(workers: int) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(ask, pictures))
        return time.perf_counter() - began

    ratios = [seconds(6) / seconds(1) for _ in range(4)]
    assert min(ratios) < 0.8, ratios


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("vision", {"image": text(b"no picture")}, r"\[INVALID_ARGUMENT\] image: the image is none of PNG, JPEG"),
        (
            "vision",
            {"image": text(draw(("red", "circle"), size=(2000, 4)))},
            r"\[INVALID_ARGUMENT\] image: .*aspect ratio",
        ),
        (
            "vision_encoder",
            {
                "pixel_values": np.zeros((1, 10), np.float32),
                "pixel_shape": np.array([[3, 4]]),
                "image_grid": np.array([[1, 2, 2]]),
            },
            r"\[INVALID_ARGUMENT\] pixel_shape: \[3, 4\] is not the shape of 10 values",
        ),
        (
            "tokenizer",
            {"input_ids": np.array([[10**9]], np.int32)},
            r"\[INVALID_ARGUMENT\] input_ids: 1000000000 is not",
        ),
        ("tokenizer", {"messages": text("{")}, r"\[INVALID_ARGUMENT\] messages: not valid JSON"),
        ("tokenizer", {"messages": text("[]"), "text": text("a")}, r"\[INVALID_ARGUMENT\] text: exactly one of"),
        ("audio_frontend", {"audio": text(b"no sound")}, r"\[INVALID_ARGUMENT\] audio: the audio is no WAV, FLAC"),
    ],
)
def test_bad_requests_name_the_field(triton: System, model: str, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        infer(triton.grpc, model, inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": text("xx")}, r"\[INVALID_ARGUMENT\] language: 'xx' is not a language"),
        ({"task": text("sing")}, r"\[INVALID_ARGUMENT\] task: must be transcribe or translate, got 'sing'"),
        ({"temperature": number(3, np.float32)}, r"\[INVALID_ARGUMENT\] temperature: must be between 0 and 1"),
    ],
)
def test_bad_options_of_a_transcription_are_refused(triton: System, options: dict[str, Array], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        stream(triton.grpc, "transcription", {"audio": text(say("one")), **options})


def test_speech_becomes_text_with_all_that_is_known_about_it(triton: System) -> None:
    found = transcribe(triton, say("one two three four"))
    assert words(found["text"]) == ["one", "two", "three", "four"]
    assert (found["audio_language"], found["finish_reason"]) == ("en", "stop")
    assert 1 < found["duration"] < 4
    assert found["num_output_tokens"] > 0
    (segment,) = json.loads(found["segments"])
    assert (segment["id"], segment["seek"], segment["start"], segment["end"]) == (
        0,
        0,
        0.0,
        round(found["duration"], 2),
    )
    assert segment["text"].strip() == found["text"]
    assert segment["avg_logprob"] > -1 and segment["no_speech_prob"] < 0.5


def test_the_transcription_is_its_two_steps(triton: System) -> None:
    audio = say("seven eight")
    features = infer(triton.grpc, "audio_frontend", {"audio": text(audio)})
    assert features["input_features"].shape[1:] == (80, 3000)
    (response,) = stream(triton.grpc, "whisper", {**features, "language": text("English")})
    assert response["text"].item().decode() == transcribe(triton, audio, language=text("en"))["text"]


def test_recordings_that_wait_together_keep_their_own_text(triton: System) -> None:
    spoken = ["one two", "three four five", "six", "seven eight nine", "zero one", "two three"]
    heard: dict[int, list[str]] = {}

    def ask(place: int, audio: bytes) -> None:
        heard[place] = words(transcribe(triton, audio)["text"])

    threads = [threading.Thread(target=ask, args=(place, say(phrase))) for place, phrase in enumerate(spoken)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert heard == {place: phrase.split() for place, phrase in enumerate(spoken)}


def test_silence_is_no_text(triton: System) -> None:
    header = say("one")[:44]
    silence = header[:40] + (44_100).to_bytes(4, "little") + bytes(44_100)
    found = transcribe(triton, silence)
    assert (found["text"], found["segments"], found["finish_reason"]) == ("", "[]", "stop")


def test_the_tokenizer_counts_as_the_chat_does(triton: System) -> None:
    messages = text(json.dumps([{"role": "user", "content": "Who are you?"}]))
    counted = infer(triton.grpc, "tokenizer", {"messages": messages})
    *_, last = stream(triton.grpc, "llm", {"messages": messages, "max_tokens": number(1, np.int32)})
    assert counted["count"].item() == counted["ids"].shape[1] == last["num_input_tokens"].item()
    back = infer(triton.grpc, "tokenizer", {"input_ids": counted["ids"]})
    assert back["text"].item() == counted["text"].item()
    assert b"Who are you?" in back["text"].item()
