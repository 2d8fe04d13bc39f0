"""The one place that imports Triton's Python-backend module.

Everything else speaks of `Inputs` (tensors by name, already decoded) and of plain dictionaries of numpy arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from python_backends.errors import BackendError, InternalFault, InvalidInput
from python_backends.metrics import Metric

Array = np.ndarray[Any, Any]


class Inputs:
    """The tensors of one request by name; the batch dimension of one is dropped on reading."""

    def __init__(self, request: Any) -> None:
        self._tensors = {tensor.name(): tensor for tensor in request.inputs()}
        self.request_id: str = request.request_id()
        # Triton's own parameter of a request, in microseconds; 0 is none.
        self.timeout_s: float | None = request.timeout() / 1e6 or None

    def array(self, name: str) -> Array | None:
        """The tensor without its batch dimension, or None when the request has none of that name."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        batch: Array = tensor.as_numpy()
        if len(batch) != 1:
            raise InvalidInput(f"a request carries a batch of one, got {len(batch)}", name)
        row: Array = batch[0]
        return row

    def need(self, name: str) -> Array:
        found = self.array(name)
        if found is None:
            raise InvalidInput("this input is required", name)
        return found

    def scalar(self, name: str, default: Any = None) -> Any:
        """The first element as a Python value; text tensors give bytes."""
        values = self.array(name)
        return default if values is None or values.size == 0 else values.reshape(-1)[:1].tolist()[0]

    def text(self, name: str, default: str = "") -> str:
        value = self.scalar(name)
        if value is None:
            return default
        try:
            return str(value, "utf-8") if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            raise InvalidInput("not valid UTF-8", name) from error

    def blobs(self, name: str) -> list[bytes]:
        values = self.array(name)
        return [] if values is None else [bytes(value) for value in values.reshape(-1)]

    def json(self, name: str) -> Any:
        """The parsed JSON text, or None when absent or empty."""
        text = self.text(name)
        try:
            return json.loads(text) if text else None
        except json.JSONDecodeError as error:
            raise InvalidInput(f"not valid JSON: {error}", name) from error


def entry_folder(args: Mapping[str, str]) -> Path:
    """The entry's folder in the model repository, from the arguments of `initialize`."""
    return Path(args["model_repository"])


def entry_parameters(args: Mapping[str, str]) -> dict[str, str]:
    config = json.loads(args["model_config"])
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def response(outputs: Mapping[str, Array]) -> Any:
    """An InferenceResponse; each array gets the batch dimension of one."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, _batched(array)) for name, array in outputs.items()])


def error_response(error: BaseException) -> Any:
    """The error reply of docs/contracts.md; a foreign exception becomes an InternalFault."""
    known = error if isinstance(error, BackendError) else InternalFault(f"{type(error).__name__}: {error}")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(known.wire_text, _triton_code(known.code)))


def text_array(*texts: str | bytes) -> Array:
    return np.array([text.encode() if isinstance(text, str) else text for text in texts], dtype=np.object_)


def answer_each(requests: list[Any], answer: Callable[[Inputs], Mapping[str, Array]]) -> list[Any]:
    """`execute` of an entry that answers each request once; a failure ends only the request that caused it."""
    return [_answer(request, answer) for request in requests]


def tensors_of(request: Any) -> dict[str, Array]:
    """Every input by name, flat: for entries whose clients do not agree about a batch dimension."""
    return {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}


def answer_as_it_is(answer: Callable[[], Mapping[str, Array]]) -> Any:
    """A response whose arrays keep their shapes, or the error reply."""
    try:
        return _as_it_is(answer())
    except Exception as error:  # becomes the error reply to this request
        return error_response(error)


def _as_it_is(outputs: Mapping[str, Array]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def _answer(request: Any, answer: Callable[[Inputs], Mapping[str, Array]]) -> Any:
    try:
        return response(answer(Inputs(request)))
    except Exception as error:  # becomes the error reply to this request
        return error_response(error)


class Responder:
    """The reply channel of one decoupled request."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def send(self, outputs: Mapping[str, Array], final: bool = False) -> None:
        self._sender.send(response(outputs), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)

    def send_as_it_is(self, outputs: Mapping[str, Array]) -> None:
        """A response whose arrays keep their shapes."""
        self._sender.send(_as_it_is(outputs))

    def fail(self, error: BaseException) -> None:
        self._sender.send(error_response(error), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def close(self) -> None:
        """End the stream without a further response."""
        self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


class MetricBoard:
    """The metrics port, where every number is labelled with the model's name. Each call is a trip to the server."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._families: dict[str, Any] = {}
        self._shown: dict[tuple[str, ...], Any] = {}

    def declare(self, metric: Metric) -> None:
        self._find(metric, {})

    def add(self, metric: Metric, labels: Mapping[str, str], value: float) -> None:
        self._find(metric, labels).increment(value)

    def set(self, metric: Metric, value: float) -> None:
        self._find(metric, {}).set(value)

    def observe(self, metric: Metric, value: float) -> None:
        self._find(metric, {}).observe(value)

    def _find(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        key = (metric.name, *labels.values())
        if key not in self._shown:
            if metric.name not in self._families:
                kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
                self._families[metric.name] = pb_utils.MetricFamily(metric.name, metric.description, kind)
            buckets = {"buckets": list(metric.buckets)} if metric.buckets else {}
            self._shown[key] = self._families[metric.name].Metric(labels={"model": self._model, **labels}, **buckets)
        return self._shown[key]


@contextmanager
def load_errors_named(entry: str) -> Iterator[None]:
    """What fails while an entry loads is reported by Triton with the entry's name in front."""
    try:
        yield
    except Exception as error:  # Triton wants its own exception, which carries the text to the repository index
        raise pb_utils.TritonModelException(f"{entry}: {type(error).__name__}: {error}") from error


def _batched(array: Array) -> Array:
    # Triton takes the buffer as it lies, so a strided view would send other bytes.
    return np.ascontiguousarray(array)[None]


def _triton_code(code: str) -> Any:
    """Triton's nearest code. Read late: the server adds these names to its module only after the entry is imported."""
    codes = {
        "INVALID_ARGUMENT": pb_utils.TritonError.INVALID_ARG,
        "OUT_OF_RANGE": pb_utils.TritonError.INVALID_ARG,
        "UNIMPLEMENTED": pb_utils.TritonError.UNSUPPORTED,
        "INTERNAL": pb_utils.TritonError.INTERNAL,
    }
    return codes.get(code, pb_utils.TritonError.UNAVAILABLE)
