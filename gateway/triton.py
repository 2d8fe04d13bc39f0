"""The transport: a gRPC channel to each Triton, one ModelStreamInfer call per request. The only file that knows gRPC.

The generated stubs are used directly: NVIDIA's client class decodes every response through numpy, and its asyncio
stream hides the call that has to be cancelled.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gateway.errors import GatewayError, ServerGone, UpstreamFault, from_status, from_wire
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
# Who has not answered for so long is as good as gone.
SILENT_S = 5.0
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
    inputs: frozenset[str] = frozenset()


class Triton:
    """A channel that may be opened before Triton is up and outlives its restarts. Errors are GatewayError.

    `ready` names the entries that were ready when it was last heard of, `num_open` counts the streams.
    """

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None = None, host: str = "") -> None:
        """`host` is the name that the server's certificate must have, by default the one in `endpoint`."""
        self.endpoint = endpoint
        self.ready: frozenset[str] = frozenset()
        self.num_open = 0
        self._heard_at = float("-inf")
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        else:
            named = [("grpc.ssl_target_name_override", host)] if host else []
            self._channel = grpc.aio.secure_channel(endpoint, credentials, options=[*CHANNEL_OPTIONS, *named])
        self._stub = GRPCInferenceServiceStub(self._channel)

    def __repr__(self) -> str:
        return f"<Triton {self.endpoint}, {self.num_open} open>"

    async def close(self) -> None:
        await self._channel.close(grace=None)

    async def index(self) -> dict[str, EntryState]:
        """Lists all entries; of several versions the ready one counts."""
        try:
            reply = await _unary(self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=CALL_TIMEOUT_S))
        except GatewayError as error:
            # A busy machine may be late once; that must not send its conversations elsewhere.
            if isinstance(error, ServerGone) or time.monotonic() - self._heard_at > SILENT_S:
                self.ready = frozenset()
            raise
        self._heard_at = time.monotonic()
        entries: dict[str, EntryState] = {}
        for model in reply.models:
            if not entries.get(model.name, EntryState("", "")).ready:
                entries[model.name] = EntryState(model.state, model.reason)
        self.ready = frozenset(name for name, entry in entries.items() if entry.ready)
        return entries

    async def config(self, name: str) -> EntryConfig:
        reply = await _unary(self._stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=CALL_TIMEOUT_S))
        parameters = {key: value.string_value for key, value in reply.config.parameters.items()}
        steps = tuple(step.model_name for step in reply.config.ensemble_scheduling.step)
        return EntryConfig(parameters, steps, frozenset(given.name for given in reply.config.input))

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

    def stream(
        self, model: str, request_id: str, tensors: Iterable[Tensor], elsewhere: Elsewhere | None = None
    ) -> TritonStream:
        """Opens one call; leave it as a context manager, which cancels what still runs.

        `elsewhere` names the server that is asked instead if this one is gone before it has said anything.
        """
        return TritonStream(self, _infer_request(model, request_id, tensors), elsewhere)

    def call(self, request: pb.ModelInferRequest) -> Any:
        # A list, not a generator: an exception in a generator would surface as a cancel.
        return self._stub.ModelStreamInfer([request])


Elsewhere = Callable[[], Triton | None]


class TritonStream:
    """The responses to one request, each as a dict from output name to raw bytes.

    Iteration raises GatewayError for an error response, a failed call and `fail`.
    """

    def __init__(self, triton: Triton, request: pb.ModelInferRequest, elsewhere: Elsewhere | None) -> None:
        self.triton = triton
        self._call = triton.call(request)
        # What it takes to ask again; nothing from the first response on.
        self._unheard = None if elsewhere is None else (request, elsewhere)
        self._fault: GatewayError | None = None
        self.finished = False
        self.last_response_at = asyncio.get_running_loop().time()
        self._now = asyncio.get_running_loop().time

    async def __aenter__(self) -> TritonStream:
        self.triton.num_open += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.finished and kind is None:
                await self._drain()
        finally:
            self.triton.num_open -= 1
            self._call.cancel()

    def __aiter__(self) -> TritonStream:
        return self

    async def __anext__(self) -> dict[str, bytes]:
        try:
            reply = await self._read()
            if reply is grpc.aio.EOF:
                raise StopAsyncIteration
            if reply.error_message:
                raise from_wire(reply.error_message)
        except ServerGone:
            # Until it is heard of again.
            self.triton.ready = frozenset()
            if not self._ask_elsewhere():
                raise
            return await self.__anext__()
        self._unheard = None
        self.last_response_at = self._now()
        # The tensors' order may change between responses, so they go by name.
        response = reply.infer_response
        return {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)}

    def fail(self, error: GatewayError) -> None:
        """Ends the stream from outside: whoever reads it gets `error`, and the call is cancelled."""
        self._fault = error
        self._call.cancel()

    def _ask_elsewhere(self) -> bool:
        """Once, and only while nothing has been read: nobody gets the beginnings of two answers."""
        unheard, self._unheard = self._unheard, None
        if unheard is None:
            return False
        request, elsewhere = unheard
        other = elsewhere()
        if other is None:
            return False
        self._call.cancel()
        self.triton.num_open -= 1
        other.num_open += 1
        self.triton, self._call, self._fault = other, other.call(request), None
        self.last_response_at = self._now()
        return True

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
