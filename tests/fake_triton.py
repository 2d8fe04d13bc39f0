"""A scripted KServe service on a real gRPC socket: says what it is told, when it is told, and records what it was sent.

It stands in for Triton in tests of the gateway only. Run as a program it echoes, for the latency benchmark:
`python tests/fake_triton.py PORT_FILE`.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server


@dataclass
class Wait:
    """Pauses the script."""

    seconds: float


@dataclass
class Fail:
    """Sends an error response, as a model does."""

    text: str


class Hang:
    """Says nothing for ever, as a killed model process does."""


@dataclass
class Received:
    """One request: its tensors as lists of values, and how it ended."""

    model: str
    request_id: str
    tensors: dict[str, list[Any]]
    shapes: dict[str, list[int]]
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    completed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Entry:
    parameters: dict[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    state: str = "READY"
    reason: str = ""


def demo_entries() -> dict[str, Entry]:
    """The entries of the real repository that the gateway looks at."""
    chat = {"task": "chat", "served_model_name": "demo-vl,demo", "input_modalities": "text,image"}
    speech = {"task": "transcription", "served_model_name": "org/demo-speech", "input_modalities": "audio"}
    return {
        "llm": Entry({**chat, "max_model_len": "2048"}, inputs=("compact",)),
        "image_frontend": Entry(),
        "vision_encoder": Entry(),
        "vision": Entry(steps=("image_frontend", "vision_encoder")),
        "audio_frontend": Entry(),
        "whisper": Entry(speech),
        "transcription": Entry(steps=("audio_frontend", "whisper")),
        "tokenizer": Entry(),
    }


def token(text: str, finish: str = "", **more: Any) -> dict[str, Any]:
    """One response of `llm`: seven prompt tokens, one token of its own; `sequence_index` among `more` numbers it."""
    counts = {"num_input_tokens": 7, "num_output_tokens": 1, "num_cached_tokens": 2, "num_image_tokens": 0}
    return {"text_output": text, "finish_reason": finish, "stop_reason": "", "logprobs": "", **counts, **more}


def transcript(text: str, finish: str = "stop", duration: float = 2.25, **more: Any) -> dict[str, Any]:
    """One response of `whisper`: two tokens of text, after 113 of sound."""
    counts = {"num_output_tokens": 2, "num_prompt_tokens": 4, "num_audio_tokens": 113}
    heard = {"audio_language": "en", "audio_language_name": "english", "segments": "[]", "logprobs": ""}
    return {"text": text, "duration": duration, "finish_reason": finish, **heard, **counts, **more}


class FakeTriton(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`script(received)` gives the steps of an answer; `requests` holds everything that came in."""

    def __init__(self) -> None:
        self.entries = demo_entries()
        self.requests: list[Received] = []
        self.arrived = asyncio.Event()
        self.loads: list[str] = []
        self.load_fault = ""
        self.script: Callable[[Received], list[Any]] = lambda received: [token("Hello"), token(" world", "stop")]
        self.port = 0
        self.credentials: grpc.ServerCredentials | None = None
        self._server: grpc.aio.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listens on a free port, or again on the port of the last time."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if self.credentials is None:
            self.port = self._server.add_insecure_port(self.endpoint)
        else:
            self.port = self._server.add_secure_port(self.endpoint, self.credentials)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    async def next_request(self) -> Received:
        """Waits at most ten seconds for a request to be there and returns the last one."""
        await asyncio.wait_for(self.arrived.wait(), 10)
        return self.requests[-1]

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        reply = pb.RepositoryIndexResponse()
        for name, entry in self.entries.items():
            if entry.state == "READY" or not request.ready:
                reply.models.add(name=name, version="1", state=entry.state, reason=entry.reason)
        return reply

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        entry = self.entries.get(request.name, Entry(state="MISSING"))
        if entry.state != "READY":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        reply = pb.ModelConfigResponse()
        for key, value in entry.parameters.items():
            reply.config.parameters[key].string_value = value
        for step in entry.steps:
            reply.config.ensemble_scheduling.step.add(model_name=step)
        for name in entry.inputs:
            reply.config.input.add(name=name)
        return reply

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """With another configuration, an entry takes its parameters; `load_fault` makes the next loads fail."""
        self.loads.append(request.model_name)
        if self.load_fault:
            await context.abort(grpc.StatusCode.INTERNAL, self.load_fault)
        entry = self.entries[request.model_name]
        if "config" in request.parameters:
            given = json.loads(request.parameters["config"].string_param)["parameters"]
            entry.parameters = {key: value["string_value"] for key, value in given.items()}
        entry.state, entry.reason = "READY", ""
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        entry = self.entries[request.model_name]
        entry.state, entry.reason = "UNAVAILABLE", "unloaded"
        return pb.RepositoryModelUnloadResponse()

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in request_iterator:
            received = _receive(request)
            self.requests.append(received)
            self.arrived.set()
            try:
                for step in self.script(received):
                    if isinstance(step, Wait):
                        await asyncio.sleep(step.seconds)
                    elif isinstance(step, Hang):
                        await asyncio.Event().wait()
                    else:
                        yield _reply(step, request)
                received.completed.set()
            except (asyncio.CancelledError, GeneratorExit):
                received.cancelled.set()
                raise


def _receive(request: Any) -> Received:
    pairs = list(zip(request.inputs, request.raw_input_contents, strict=True))
    tensors = {tensor.name: _values(tensor.datatype, raw) for tensor, raw in pairs}
    shapes = {tensor.name: list(tensor.shape) for tensor, _ in pairs}
    return Received(request.model_name, request.id, tensors, shapes)


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        code = {"INT32": "<i", "UINT64": "<Q", "FP32": "<f", "BOOL": "<?"}[datatype]
        return [value for (value,) in struct.iter_unpack(code, raw)]
    values = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        values.append(raw[4:end])
        raw = raw[end:]
    return values


def _reply(step: Any, request: Any) -> Any:
    if isinstance(step, Fail):
        return pb.ModelStreamInferResponse(error_message=step.text)
    reply = pb.ModelStreamInferResponse()
    response = reply.infer_response
    response.model_name, response.id = request.model_name, request.id
    for name, value in step.items():
        datatype, raw = _raw(value)
        response.outputs.add(name=name, datatype=datatype, shape=[1, 1])
        response.raw_output_contents.append(raw)
    return reply


def _raw(value: Any) -> tuple[str, bytes]:
    if isinstance(value, str):
        return "BYTES", len(value.encode()).to_bytes(4, "little") + value.encode()
    if isinstance(value, float):
        return "FP32", struct.pack("<f", value)
    if isinstance(value, list):
        return "INT32", struct.pack(f"<{len(value)}i", *value)
    return "INT32", struct.pack("<i", value)


async def _echo(port_file: Path) -> None:
    """Streams `max_tokens` tokens as fast as it can."""
    fake = FakeTriton()
    word, last = token("word "), token("word ", "length")
    fake.script = lambda received: [word] * (received.tensors["max_tokens"][0] - 1) + [last]
    await fake.start()
    port_file.write_text(str(fake.port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_echo(Path(sys.argv[1])))
