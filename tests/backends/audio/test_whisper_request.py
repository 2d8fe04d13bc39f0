"""Every tensor of a request to `whisper` arrives where it belongs, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backends.audio.speech_cutter import CutOptions
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.whisper_options import WhisperOptions
from python_backends.audio.whisper_prefix import DEFAULT_PREFIX, prefix_options
from python_backends.audio.whisper_request import WhisperRequest, read_request
from python_backends.audio.windows import TEMPERATURES, DecodeOptions
from python_backends.errors import InvalidInput, OptionError, Unsupported
from python_backends.options import read_options
from tests.backends.audio import tiny_whisper
from tests.backends.audio.tiny_whisper import MELS, WINDOW_FRAMES
from tests.backends.test_request import FakeTensors

AUDIO = {"audio": b"RIFF"}


class Tensors(FakeTensors):
    def need(self, name: str) -> Any:
        found = self.array(name)
        if found is None:
            raise InvalidInput("this input is required", name)
        return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WhisperModel:
    return WhisperModel(tiny_whisper.save(tmp_path_factory.mktemp("whisper")))


def read(model: WhisperModel, **values: Any) -> WhisperRequest:
    return read_request(Tensors(values), model)


def test_a_plain_request(model: WhisperModel) -> None:
    found = read(model, **AUDIO)
    assert (found.audio, found.features, found.language, found.stream) == (b"RIFF", None, "", False)
    assert found.options == DecodeOptions("transcribe", temperatures=TEMPERATURES)
    assert found.cut == CutOptions()


def test_every_option(model: WhisperModel) -> None:
    flags = dict.fromkeys(("timestamps", "word_timestamps", "condition_on_previous_text", "stream"), True)
    words: dict[str, Any] = {"language": b"German", "task": b"translate", "prompt": b"x", "seed": 7}
    found = read(model, **AUDIO, **flags, **words, temperature=[0.25, 0.5], return_log_probs=True)
    assert (found.language, found.stream, found.return_log_probs) == ("<|de|>", True, True)
    assert found.options == DecodeOptions(
        task="translate",
        prompt_ids=model.prompt_ids("x"),
        temperatures=(0.25, 0.5),
        timestamps=True,
        word_timestamps=True,
        condition_on_previous_text=True,
        seed=7,
    )


def test_long_features_need_timestamps(model: WhisperModel) -> None:
    features = np.zeros((MELS, WINDOW_FRAMES + 1), np.float32)
    found = read(model, input_features=features, duration=2.0)
    assert found.options.timestamps
    assert found.duration == 2.0


def test_chunking_strategies(model: WhisperModel) -> None:
    assert read(model, **AUDIO, chunking_strategy=b'"auto"').cut == CutOptions(always=True)
    wish = {"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 400, "prefix_padding_ms": 100}
    found = read(model, **AUDIO, chunking_strategy=json.dumps(wish).encode()).cut
    assert found == CutOptions(always=True, threshold=0.7, silence_s=0.4, pad_s=0.1)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "audio"),
    ({**AUDIO, "input_features": np.zeros((MELS, WINDOW_FRAMES), np.float32)}, "audio"),
    ({"input_features": np.zeros((MELS, 3), np.float32), "duration": 1.0}, "input_features"),
    ({"input_features": np.zeros((MELS, WINDOW_FRAMES), np.float32), "duration": -1.0}, "duration"),
    ({"input_features": np.zeros((MELS, WINDOW_FRAMES), np.float32)}, "duration"),
    ({**AUDIO, "temperature": [0.0, 2.0]}, "temperature"),
    ({**AUDIO, "language": b"xx"}, "language"),
    ({**AUDIO, "task": b"sing"}, "task"),
    ({**AUDIO, "chunking_strategy": b'"never"'}, "chunking_strategy"),
    ({**AUDIO, "chunking_strategy": b'{"type": "server_vad", "threshold": "high"}'}, "chunking_strategy"),
    ({**AUDIO, "chunking_strategy": b'{"type": "server_vad", "speed": 1}'}, "chunking_strategy"),
    ({**AUDIO, "chunking_strategy": b'{"type": "server_vad", "threshold": 7}'}, "chunking_strategy"),
]


@pytest.mark.parametrize(("values", "field"), BAD)
def test_bad_tensors_are_named(model: WhisperModel, values: dict[str, Any], field: str) -> None:
    with pytest.raises((InvalidInput, Unsupported)) as caught:
        read(model, **values)
    assert caught.value.field == field


def test_prefixes_of_nvidias_client() -> None:
    assert prefix_options(DEFAULT_PREFIX) == {"timestamps": False, "language": b"en", "task": b"transcribe"}
    said = prefix_options("<|startofprev|> as before<|startoftranscript|><|de|><|translate|>")
    assert said == {"timestamps": True, "language": b"de", "task": b"translate", "prompt": b" as before"}
    assert prefix_options("<|startoftranscript|><|notimestamps|>") == {"timestamps": False}
    with pytest.raises(InvalidInput, match="start tokens") as caught:
        prefix_options("write this down")
    assert caught.value.field == "TEXT_PREFIX"


@pytest.mark.parametrize(
    "parameters",
    [{"max_batch": "0"}, {"max_duration": "-1"}, {"decode_workers": "0"}, {"alignment_heads": "[1]"}],
)
def test_bad_parameters_are_named(parameters: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=next(iter(parameters))):
        read_options(WhisperOptions, {"model": "m", **parameters}, Path("whisper"))


def test_tensorrt_llm_is_refused_at_load_with_its_versions() -> None:
    with pytest.raises(OptionError, match=r"whisper: parameter 'engine' is 'tensorrt_llm': .* 1\.2\.1 has no Whisper"):
        read_options(WhisperOptions, {"model": "m", "engine": "tensorrt_llm"}, Path("whisper"))


def test_alignment_heads_are_pairs() -> None:
    options = read_options(WhisperOptions, {"model": "m", "alignment_heads": "[[-1, 0], [2, 3]]"}, Path("whisper"))
    assert options.heads == [(-1, 0), (2, 3)]
