"""The `whisper_bls` entry: samples in, text out, under the names of NVIDIA's TensorRT-LLM Whisper example.

Knows those tensors, and gRPC to `whisper` on this server: not Triton's in-server calls, which together with client
cancels bring the server down (docs/decisions/0003-grpc-between-llm-and-vision.md).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import soundfile
from tritonclient.grpc import service_pb2, service_pb2_grpc

from python_backends.audio.decode import SAMPLE_RATE
from python_backends.audio.whisper_prefix import DEFAULT_PREFIX, prefix_options
from python_backends.errors import BackendError, DependencyDown, InvalidInput, QueueFull, Unsupported
from python_backends.triton_io import Array, Inputs, answer_each, load_errors_named, text_array

_WIRE_TEXT = re.compile(r"\[([A-Z_]+)\] (?:(\w+): )?([^\r\n]*)")
_CALLERS_FAULT = {kind.code: kind for kind in (InvalidInput, Unsupported, QueueFull)}
_TENSOR_OF = {"audio": "WAV", "language": "TEXT_PREFIX", "task": "TEXT_PREFIX", "prompt": "TEXT_PREFIX"}
_CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_TIMEOUT_S = 3600.0
# Requests asked for at the same time; `whisper` decodes them together.
_MAX_CALLS = 64


class WhisperBls:
    """Triton's Python model for `whisper_bls`. It answers once, so that it can be called with or without a stream."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            endpoint = os.environ.get("TRIMODAL_GRPC_ENDPOINT", "127.0.0.1:8001")
            self._channel = grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            self._threads = ThreadPoolExecutor(_MAX_CALLS, "whisper_bls")

    def execute(self, requests: list[Any]) -> list[Any]:
        asked = [self._threads.submit(self._transcripts, Inputs(request)) for request in requests]
        return [
            answer_each([request], lambda inputs, future=future: future.result())[0]  # type: ignore[misc]
            for request, future in zip(requests, asked, strict=True)
        ]

    def finalize(self) -> None:
        self._threads.shutdown()
        self._channel.close()

    def _transcripts(self, inputs: Inputs) -> dict[str, Array]:
        wav = _wav_file(inputs.need("WAV").reshape(-1), inputs.scalar("WAV_LENS"))
        values = {"audio": wav, **prefix_options(inputs.text("TEXT_PREFIX") or DEFAULT_PREFIX)}
        return {"TRANSCRIPTS": text_array(self._ask(values))}

    def _ask(self, values: Mapping[str, bytes | bool]) -> str:
        """The whole text. Raises BackendError."""
        text = b""
        try:
            for reply in self._stub.ModelStreamInfer(iter([_request(values)]), timeout=_TIMEOUT_S):
                if reply.error_message:
                    raise _translated(reply.error_message)
                outputs = reply.infer_response
                for output, raw in zip(outputs.outputs, outputs.raw_output_contents, strict=True):
                    text += raw[4:] if output.name == "text" else b""
        except grpc.RpcError as error:
            raise DependencyDown(f"the entry whisper did not answer: {error.code().name}") from error
        return text.decode()


def _wav_file(samples: Array, length: int | None) -> bytes:
    """Of the first `length` samples; NVIDIA's client fills up to whole tens of seconds."""
    if length is not None and not 0 < length <= len(samples):
        raise InvalidInput(f"must be from 1 to the {len(samples)} samples of WAV, got {length}", "WAV_LENS")
    file = io.BytesIO()
    soundfile.write(file, samples[:length], SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def _request(values: Mapping[str, bytes | bool]) -> Any:
    request = service_pb2.ModelInferRequest(model_name="whisper")
    for name, value in values.items():
        request.inputs.add(name=name, datatype="BOOL" if isinstance(value, bool) else "BYTES", shape=[1, 1])
        # BYTES elements carry their length in front, four bytes little-endian (KServe v2).
        raw = bytes([value]) if isinstance(value, bool) else len(value).to_bytes(4, "little") + value
        request.raw_input_contents.append(raw)
    # Greedy, as the example decodes.
    request.inputs.add(name="temperature", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.zeros(1, "<f4").tobytes())
    return request


def _translated(text: str) -> BackendError:
    """What is the caller's fault stays so, under the caller's name for the tensor."""
    found = _WIRE_TEXT.search(text)
    if found and found[1] in _CALLERS_FAULT:
        return _CALLERS_FAULT[found[1]](found[3], _TENSOR_OF.get(found[2], found[2] or ""))
    return DependencyDown(f"the entry whisper failed: {text[:200]}")
