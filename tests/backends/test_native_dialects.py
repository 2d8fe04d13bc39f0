"""How the requests of NVIDIA's bundled clients become requests of `llm`, tensor by tensor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from launcher.pbtxt import read_config
from python_backends.errors import BackendError, InvalidInput, Unsupported
from python_backends.native_clients import dialects
from python_backends.native_clients.dialects import from_ensemble, from_llmapi, from_vllm
from tests.source_tree import ROOT

ENTRIES = ROOT / "examples" / "native_entries"
REPLY = {
    "text_output": np.array([[b"hi"]], np.object_),
    "finish_reason": np.array([[b"stop"]], np.object_),
    "stop_reason": np.array([[b""]], np.object_),
    "logprobs": np.array([[b""]], np.object_),
    "sequence_index": np.array([[0]], np.int32),
    "num_input_tokens": np.array([[3]], np.int32),
    "num_output_tokens": np.array([[1]], np.int32),
}


def words(*values: str) -> np.ndarray[Any, Any]:
    return np.array([value.encode() for value in values], np.object_)


def test_the_ensembles_request_is_llms_but_for_the_beam() -> None:
    given = {
        "text_input": words("hello"),
        "max_tokens": np.array([5], np.int32),
        "stream": np.array([True]),
        "beam_width": np.array([1], np.int32),
        "stop_words": words("a", "b"),
    }
    call = from_ensemble(given)
    assert call["stream"].item() and "beam_width" not in call
    assert all(values.shape[0] == 1 for values in call.values())
    assert call["stop_words"].tolist() == [[b"a", b"b"]]
    # There the prompt comes with the answer unless the client says otherwise.
    assert not call["exclude_input_in_output"].item()
    with pytest.raises(Unsupported, match="no beam search, got 4"):
        from_ensemble({**given, "beam_width": np.array([4], np.int32)})


def test_vllms_numbers_may_be_text() -> None:
    sampling = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100", "ignore_eos": True}
    given = {
        "text_input": words("hello"),
        "stream": np.array([True]),
        "sampling_parameters": words(json.dumps(sampling)),
    }
    call = from_vllm(given)
    assert json.loads(call["sampling_parameters"].item()) == {
        "temperature": 0.1,
        "top_p": 0.95,
        "max_tokens": 100,
        "ignore_eos": True,
    }
    assert call["exclude_input_in_output"].item()
    assert not from_vllm({"text_input": words("hello")})["exclude_input_in_output"].item()


def test_vllms_logprobs_are_a_count() -> None:
    call = from_vllm({"text_input": words("hello"), "sampling_parameters": words('{"logprobs": "2"}')})
    assert json.loads(call["sampling_parameters"].item()) == {"logprobs": True, "top_logprobs": 2}
    asked = from_vllm({"text_input": words("hello"), "return_logprobs": np.array([True])})
    assert json.loads(asked["sampling_parameters"].item()) == {"logprobs": True, "top_logprobs": 0}


@pytest.mark.parametrize("text", ['{"temperature": "warm"}', "[1]", "{"])
def test_bad_sampling_parameters_are_named(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_vllm({"text_input": words("hello"), "sampling_parameters": words(text)})
    assert caught.value.field == "sampling_parameters"


def test_vllm_streams_without_the_prompt_only() -> None:
    given = {"text_input": words("a"), "stream": np.array([True]), "exclude_input_in_output": np.array([False])}
    with pytest.raises(InvalidInput, match="must be true when stream is"):
        from_vllm(given)


def test_llmapis_names_lose_their_prefix() -> None:
    given = {
        "text_input": words("hello", "ignored"),
        "sampling_param_max_tokens": np.array([7], np.int32),
        "sampling_param_stop": words("x"),
    }
    call = from_llmapi(given)
    assert not call["stream"].item()
    assert call["max_tokens"].tolist() == [[7]] and call["text_input"].tolist() == [[b"hello"]]
    assert call["stop_words"].tolist() == [[b"x"]]
    stop = from_llmapi({"text_input": words(""), "stop": np.array([True])})
    assert list(stop) == ["stop"]
    with pytest.raises(BackendError, match="no best_of"):
        from_llmapi({**given, "sampling_param_best_of": np.array([2], np.int32)})


@pytest.mark.parametrize(
    ("entry", "write"),
    [
        ("ensemble", dialects.to_ensemble),
        ("vllm_model", dialects.to_vllm),
        ("tensorrt_llm", dialects.to_llmapi),
    ],
)
def test_answers_have_the_shapes_that_the_clients_index(entry: str, write: Any) -> None:
    found = write(REPLY)
    config = read_config(ENTRIES / entry / "config.pbtxt")
    assert set(found) == {output.name for output in config.output}
    # `output[0].decode()` in all three clients; `sequence_index[0][0]` in the first.
    assert found["text_output"][0].decode() == "hi"
    assert entry != "ensemble" or found["sequence_index"][0][0] == 0


def test_an_entry_takes_no_input_that_llm_would_refuse() -> None:
    llm = {each.name for each in read_config(ROOT / "model_repository/llm/config.pbtxt").input}
    ensemble = {each.name for each in read_config(ENTRIES / "ensemble/config.pbtxt").input}
    assert ensemble - llm == {"beam_width"}
