"""Parameters of config.pbtxt: what is wrong is named, with its value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from python_backends.engine import EngineOptions, create_engine
from python_backends.errors import OptionError
from python_backends.options import checkpoint_path, read_options

FOLDER = Path("/models/llm")


@dataclass(frozen=True)
class Small:
    model: str
    dtype: Literal["auto", "float32"] = "auto"
    count: int = 3
    share: float = 0.5
    on: bool = False
    limits: dict[str, Any] | None = None


def test_every_kind_of_value_is_parsed() -> None:
    texts = {"model": "m", "dtype": "float32", "count": "7", "share": "0.25", "on": "True", "limits": '{"image": 2}'}
    assert read_options(Small, texts, FOLDER) == Small("m", "float32", 7, 0.25, True, {"image": 2})


def test_absent_parameters_have_their_defaults_and_foreign_ones_are_passed_over() -> None:
    assert read_options(Small, {"model": "m", "task": "chat", "served_model_name": "a,b"}, FOLDER) == Small("m")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("cuont", "7", "llm: unknown parameter 'cuont' = '7'; known are count, dtype, limits, model, on, share"),
        ("dtype", "int3", "llm: parameter 'dtype' has the bad value 'int3': must be one of auto, float32"),
        ("count", "many", "llm: parameter 'count' has the bad value 'many': invalid literal"),
        ("count", "1.5", "llm: parameter 'count' has the bad value '1.5': invalid literal"),
        ("share", "half", "llm: parameter 'share' has the bad value 'half': could not convert"),
        ("on", "yes", "llm: parameter 'on' has the bad value 'yes': must be one of true, 1, false, 0"),
        ("limits", "image=2", "llm: parameter 'limits' has the bad value 'image=2': Expecting value"),
        ("limits", "[2]", "llm: parameter 'limits' has the bad value '[2]': must be a JSON object"),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(key: str, value: str, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_options(Small, {"model": "m", key: value}, FOLDER)
    assert str(caught.value).startswith(expected)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(OptionError, match=r"llm: .*'model'"):
        read_options(Small, {}, FOLDER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_num_seqs", "0"),
        ("max_num_batched_tokens", "0"),
        ("max_waiting", "-1"),
        ("tensor_parallel_size", "0"),
        ("max_model_len", "-5"),
        ("kv_cache_bytes", "-1"),
        ("gpu_memory_utilization", "0.0"),
        ("gpu_memory_utilization", "nan"),
    ],
)
def test_engine_options_out_of_range(key: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"llm: parameter '{key}' must .* got {value}"):
        read_options(EngineOptions, {"model": "m", key: value}, FOLDER)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match="parameter 'engine' has the bad value 'warp'; known are torch"):
        create_engine("warp", EngineOptions("m"))


@pytest.mark.parametrize(
    ("model", "expected"),
    [("../../demo", "/demo"), ("./here", "/models/llm/here"), ("/there/m", "/there/m"), ("org/name", "org/name")],
)
def test_relative_checkpoints_start_at_the_entry(model: str, expected: str) -> None:
    assert checkpoint_path(FOLDER, model) == expected
