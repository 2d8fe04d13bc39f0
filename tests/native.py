"""Calls to Triton by NVIDIA's own client, as a native user writes them."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Array = np.ndarray[Any, Any]


def text(*values: str | bytes) -> Array:
    return np.array([[value.encode() if isinstance(value, str) else value for value in values]], np.object_)


def number(value: float, kind: type) -> Array:
    return np.array([[value]], kind)


def infer(url: str, model: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """One request, one response."""
    with grpcclient.InferenceServerClient(url) as client:
        result = client.infer(model, _tensors(inputs), client_timeout=60)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def stream(
    url: str, model: str, inputs: Mapping[str, Array], request_id: str = "", timeout_us: int | None = None
) -> list[dict[str, Array]]:
    """One request to a decoupled entry; all its responses. Raises InferenceServerException for an error reply."""
    more = {"request_id": request_id, "timeout": timeout_us}
    replies: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
    with grpcclient.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: replies.put((result, error)))
        client.async_stream_infer(model, _tensors(inputs), enable_empty_final_response=True, **more)
        responses: list[dict[str, Array]] = []
        while True:
            result, error = replies.get(timeout=60)
            if error is not None:
                raise error
            response = result.get_response()
            if response.outputs:
                responses.append({output.name: result.as_numpy(output.name) for output in response.outputs})
            if response.parameters["triton_final_response"].bool_param:
                return responses


def joined(responses: list[dict[str, Array]], name: str = "text_output") -> str:
    return b"".join(response[name].item() for response in responses).decode()


def _tensors(inputs: Mapping[str, Array]) -> list[Any]:
    tensors = []
    for name, array in inputs.items():
        tensor = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors
