"""The transport: one gRPC channel to Triton, one ModelStreamInfer call per request. The only file that knows gRPC.

The generated stubs are used directly: NVIDIA's client class decodes every response through numpy, and its asyncio
stream hides the call that has to be cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gateway.errors import GatewayError, UpstreamFault, from_status, from_wire
from gateway.settings import SettingError, Settings
from gateway.tensors import Tensor

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted Triton must be found within the supervisor's patience, not within gRPC's default of two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Triton is a neighbour; a proxy from the environment is meant for the outside.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

# These calls only read Triton's memory: one that takes longer tells the same as one that fails.
CALL_TIMEOUT_S = 2.0
DRAIN_TIMEOUT_S = 1.0
# A large checkpoint takes minutes.
LOAD_TIMEOUT_S = 1800.0


class EntryState(NamedTuple):
    """What the repository index says of an entry, for example READY, or UNAVAILABLE with a reason."""

    state: str
    reason: str

    @property
    def ready(self) -> bool:
        return self.state == "READY"


class EntryConfig(NamedTuple):
    """The part of an entry's configuration that the gateway uses; `steps` are the entries of an ensemble."""

    parameters: dict[str, str]
    steps: tuple[str, ...]


class Triton:
    """A channel that may be opened before Triton is up and outlives its restarts. Errors are GatewayError."""

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close(grace=None)

    async def index(self) -> dict[str, EntryState]:
        """Lists all entries; of several versions the ready one counts."""
        reply = await _unary(self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=CALL_TIMEOUT_S))
        entries: dict[str, EntryState] = {}
        for model in reply.models:
            if not entries.get(model.name, EntryState("", "")).ready:
                entries[model.name] = EntryState(model.state, model.reason)
        return entries

    async def config(self, name: str) -> EntryConfig:
        reply = await _unary(self._stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=CALL_TIMEOUT_S))
        parameters = {key: value.string_value for key, value in reply.config.parameters.items()}
        return EntryConfig(parameters, tuple(step.model_name for step in reply.config.ensemble_scheduling.step))

    async def config_json(self, name: str) -> dict[str, Any]:
        """The whole configuration, in the form that `load` takes."""
        reply = await _unary(self._stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=CALL_TIMEOUT_S))
        config: dict[str, Any] = MessageToDict(reply.config, preserving_proto_field_name=True)
        return config

    async def load(self, name: str, config: Mapping[str, Any] | None = None) -> None:
        """Loads an entry, with another configuration than the repository's if there is one. May take minutes."""
        request = pb.RepositoryModelLoadRequest(model_name=name)
        if config is not None:
            request.parameters["config"].string_param = json.dumps(config)
        try:
            await self._stub.RepositoryModelLoad(request, timeout=LOAD_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            # Only the first line: a traceback of the model's process may follow.
            reason = (error.details() or error.code().name).strip().split("\n")[0]
            raise UpstreamFault(f"{name}: {reason}") from error

    async def unload(self, name: str) -> None:
        """Unloads an entry and the ensembles that contain it; returns at once, and open requests run on."""
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        request.parameters["unload_dependents"].bool_param = True
        await _unary(self._stub.RepositoryModelUnload(request, timeout=CALL_TIMEOUT_S))

    def stream(self, model: str, request_id: str, tensors: Iterable[Tensor]) -> TritonStream:
        """Opens one call; leave it as a context manager, which cancels what still runs."""
        # A list, not a generator: an exception in a generator would surface as a cancel.
        call = self._stub.ModelStreamInfer([_infer_request(model, request_id, tensors)])
        return TritonStream(call)


class TritonStream:
    """The responses to one request, each as a dict from output name to raw bytes.

    Iteration raises GatewayError for an error response, a failed call and `fail`.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._fault: GatewayError | None = None
        self.finished = False
        self.last_response_at = asyncio.get_running_loop().time()
        self._now = asyncio.get_running_loop().time

    async def __aenter__(self) -> TritonStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.finished and kind is None:
                await self._drain()
        finally:
            self._call.cancel()

    def __aiter__(self) -> TritonStream:
        return self

    async def __anext__(self) -> dict[str, bytes]:
        reply = await self._read()
        if reply is grpc.aio.EOF:
            raise StopAsyncIteration
        if reply.error_message:
            raise from_wire(reply.error_message)
        self.last_response_at = self._now()
        # The tensors' order may change between responses, so they go by name.
        response = reply.infer_response
        return {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)}

    def fail(self, error: GatewayError) -> None:
        """Ends the stream from outside: whoever reads it gets `error`, and the call is cancelled."""
        self._fault = error
        self._call.cancel()

    async def _read(self) -> Any:
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_status(error.code().name, error.details() or "") from error
        except asyncio.CancelledError:
            # A cancelled call and a cancelled reader look the same; only `fail` leaves a fault behind.
            if self._fault is not None:
                raise self._fault from None
            raise

    async def _drain(self) -> None:
        """Lets a finished call end by itself: Triton counts a cancel as a failed request."""
        with suppress(GatewayError, asyncio.TimeoutError):
            await asyncio.wait_for(self._read_to_end(), DRAIN_TIMEOUT_S)

    async def _read_to_end(self) -> None:
        while await self._read() is not grpc.aio.EOF:
            pass


def read_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """TLS to Triton, with a certificate of our own if there is one. Raises SettingError."""
    if not settings.triton_ca_file:
        return None
    pems = [
        _read_pem(name, getattr(settings, name)) for name in ("triton_ca_file", "triton_key_file", "triton_cert_file")
    ]
    return grpc.ssl_channel_credentials(*pems)


def _read_pem(name: str, path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise SettingError(name, path, f"cannot be read: {error.strerror}") from None


async def _unary(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_status(error.code().name, error.details() or "") from error


def _infer_request(model: str, request_id: str, tensors: Iterable[Tensor]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    return request
