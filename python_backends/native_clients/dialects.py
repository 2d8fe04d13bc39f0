"""What three bundled clients of NVIDIA's say and want to hear, told as requests of `llm`. See docs/native-clients.md.

Plain functions over tensors by name; inputs come as flat arrays, whatever shape they had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from python_backends.errors import InvalidInput, Unsupported

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

# vllm_backend takes numbers as text too; its own sample client sends them so.
_KINDS: dict[str, type] = {
    "temperature": float,
    "top_p": float,
    "min_p": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "repetition_penalty": float,
    "max_tokens": int,
    "min_tokens": int,
    "top_k": int,
    "seed": int,
    "n": int,
    "logprobs": int,
}


@dataclass(frozen=True)
class Dialect:
    """`read` makes inputs of `llm`, each [1, n], of a client's; `write` the client's outputs of a response of `llm`.

    `read` raises BackendError for what cannot be told.
    """

    read: Callable[[Tensors], dict[str, Array]]
    write: Callable[[Tensors], dict[str, Array]]


def from_ensemble(given: Tensors) -> dict[str, Array]:
    """`ensemble` of NVIDIA's inflight_batcher_llm, as end_to_end_grpc_client.py asks it."""
    inputs = dict(given)
    beam_width = int(inputs.pop("beam_width", np.ones(1)).item())
    if beam_width != 1:
        raise Unsupported(f"there is no beam search, got {beam_width}", "beam_width")
    is_stream = _flag(inputs, "stream", False)
    return _rows({**inputs, **_flags(is_stream, _flag(inputs, "exclude_input_in_output", False))})


def to_ensemble(reply: Tensors) -> dict[str, Array]:
    """That client takes text_output as [1], and the indices as [1, 1]."""
    zero = np.zeros((1, 1), np.int32)
    index = reply["sequence_index"].reshape(1, 1)
    return {"text_output": reply["text_output"].reshape(1), "sequence_index": index, "batch_index": zero}


def from_vllm(given: Tensors) -> dict[str, Array]:
    """The model of vllm_backend, as its samples/client.py asks it."""
    is_stream = _flag(given, "stream", False)
    excluded = _flag(given, "exclude_input_in_output", is_stream)
    if is_stream and not excluded:
        raise InvalidInput("must be true when stream is", "exclude_input_in_output")
    sampling = _sampling(given)
    wants_logprobs = _flag(given, "return_logprobs", False)
    top = sampling.pop("logprobs", None)
    if wants_logprobs or top is not None:
        sampling |= {"logprobs": True, "top_logprobs": top or 0}
    inputs = {name: given[name] for name in ("text_input", "image") if name in given}
    return _rows({**inputs, "sampling_parameters": _text(json.dumps(sampling)), **_flags(is_stream, excluded)})


def to_vllm(reply: Tensors) -> dict[str, Array]:
    """All of shape [1]; the counts are unsigned there."""
    texts = {name: reply[name].reshape(1) for name in ("text_output", "finish_reason", "logprobs")}
    counts = {name: reply[name].reshape(1).astype(np.uint32) for name in ("num_input_tokens", "num_output_tokens")}
    return {**texts, **counts}


_LLMAPI = {
    "sampling_param_max_tokens": "max_tokens",
    "sampling_param_temperature": "temperature",
    "sampling_param_top_k": "top_k",
    "sampling_param_top_p": "top_p",
    "sampling_param_frequency_penalty": "frequency_penalty",
    "sampling_param_presence_penalty": "presence_penalty",
    "sampling_param_stop": "stop_words",
    "sampling_param_seed": "seed",
}


def from_llmapi(given: Tensors) -> dict[str, Array]:
    """The model of TensorRT-LLM's llmapi template, as llmapi_client.py asks it."""
    if _flag(given, "stop", False):
        return {"stop": np.ones((1, 1), np.bool_)}
    if int(given.get("sampling_param_best_of", np.ones(1)).item()) != 1:
        raise Unsupported("there is no best_of", "sampling_param_best_of")
    inputs = {new: given[old] for old, new in _LLMAPI.items() if old in given}
    excluded = _flag(given, "sampling_param_exclude_input_from_output", False)
    return _rows({"text_input": given["text_input"][:1], **inputs, **_flags(False, excluded)})


NOTHING = {name: np.array([b""], np.object_) for name in ("text_output", "finish_reason", "stop_reason")}


def to_llmapi(reply: Tensors) -> dict[str, Array]:
    """All of shape [1]."""
    return {name: reply[name].reshape(1) for name in ("text_output", "finish_reason", "stop_reason")}


ENSEMBLE = Dialect(from_ensemble, to_ensemble)
VLLM = Dialect(from_vllm, to_vllm)
LLMAPI = Dialect(from_llmapi, to_llmapi)


def _sampling(given: Tensors) -> dict[str, Any]:
    text = given["sampling_parameters"].item() if "sampling_parameters" in given else b"{}"
    try:
        values = json.loads(text or b"{}")
        return {key: _KINDS.get(key, lambda same: same)(value) for key, value in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(f"must be a JSON object of numbers and texts: {error}", "sampling_parameters") from error


def _flag(given: Tensors, name: str, default: bool) -> bool:
    return bool(given[name].item()) if name in given else default


def _flags(is_stream: bool, excluded: bool) -> dict[str, Array]:
    return {"stream": np.array([is_stream]), "exclude_input_in_output": np.array([excluded])}


def _rows(inputs: Tensors) -> dict[str, Array]:
    return {name: values.reshape(1, -1) for name, values in inputs.items()}


def _text(value: str) -> Array:
    return np.array([value.encode()], np.object_)
