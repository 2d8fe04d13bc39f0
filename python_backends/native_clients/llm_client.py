"""A request of `llm` on this server over gRPC, response by response.

Not Triton's in-server calls, which with cancels bring the server down
(docs/decisions/0003-grpc-between-llm-and-vision.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from python_backends import errors

Array = np.ndarray[Any, Any]

_WIRE_TEXT = re.compile(r"\[([A-Z_]+)\] (?:(\w+): )?([^\r\n]*)")
_CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_KINDS = {kind.code: kind for kind in errors.BackendError.__subclasses__()}


class LlmClient:
    """One channel for all requests."""

    def __init__(self, endpoint: str, model: str = "llm") -> None:
        self._model = model
        self._channel = grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def start(self, inputs: Mapping[str, Array], request_id: str) -> Any:
        """The call: to be read by `replies`, and to be cancelled from any thread."""
        return self._stub.ModelStreamInfer(iter([_request(self._model, inputs, request_id)]))


def replies(call: Any) -> Iterator[dict[str, Array]]:
    """The outputs of each response. Raises BackendError."""
    try:
        for message in call:
            if message.error_message:
                raise _translated(message.error_message)
            response = message.infer_response
            if response.outputs:
                pairs = zip(response.outputs, response.raw_output_contents, strict=True)
                yield {output.name: _array(output, raw) for output, raw in pairs}
    except grpc.RpcError as error:
        raise errors.DependencyDown(f"the entry llm did not answer: {error.code().name}") from error


def _request(model: str, inputs: Mapping[str, Array], request_id: str) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, values in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(values.dtype), shape=list(values.shape))
        raw = serialize_byte_tensor(values).item() if values.dtype == np.object_ else values.tobytes()
        request.raw_input_contents.append(raw)
    return request


def _array(output: Any, raw: bytes) -> Array:
    flat = (
        deserialize_bytes_tensor(raw)
        if output.datatype == "BYTES"
        else np.frombuffer(raw, triton_to_np_dtype(output.datatype))
    )
    found: Array = flat.reshape(tuple(output.shape))
    return found


def _translated(text: str) -> errors.BackendError:
    """What `llm` said, in its own words and with its own code."""
    found = _WIRE_TEXT.search(text)
    if found and found[1] in _KINDS:
        return _KINDS[found[1]](found[3], found[2] or "")
    return errors.DependencyDown(f"the entry llm failed: {text[:200]}")
