"""The few gRPC calls the launcher makes to tritonserver: what is served, load, unload."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable
from typing import TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig

CALL_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 1800.0

Reply = TypeVar("Reply")


@dataclasses.dataclass(frozen=True)
class EntryState:
    """One line of Triton's repository index; `reason` says why an entry is not READY."""

    name: str
    state: str
    reason: str


class TritonError(Exception):
    """A call failed; the text is Triton's, or gRPC's when Triton could not be reached."""


class TritonClient:
    def __init__(self, target: str) -> None:
        options = [
            ("grpc.max_receive_message_length", -1),
            # gRPC's own limit is two minutes; a restarted server is to be found at once.
            ("grpc.max_reconnect_backoff_ms", 500),
            # A proxy of the environment is not for this machine.
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def is_live(self) -> bool:
        try:
            reply = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.live)

    async def index(self) -> dict[str, EntryState]:
        reply = await _told(self._stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=CALL_TIMEOUT_S))
        return {model.name: EntryState(model.name, model.state, model.reason) for model in reply.models}

    async def is_ready(self, entry: str) -> bool:
        request = service_pb2.ModelReadyRequest(name=entry)
        return bool((await _told(self._stub.ModelReady(request, timeout=CALL_TIMEOUT_S))).ready)

    async def is_decoupled(self, entry: str) -> bool:
        return bool((await self._config(entry)).model_transaction_policy.decoupled)

    async def has_processes(self, entry: str) -> bool:
        return bool((await self._config(entry)).backend == "python")

    async def unload(self, entry: str) -> None:
        """Unload with the ensembles that contain it. Triton answers at once; open requests run on."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=entry)
        request.parameters["unload_dependents"].bool_param = True
        await _told(self._stub.RepositoryModelUnload(request, timeout=CALL_TIMEOUT_S))

    async def load(self, entry: str) -> None:
        """Load; the ensembles that contain it follow by themselves."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=entry)
        await _told(self._stub.RepositoryModelLoad(request, timeout=LOAD_TIMEOUT_S))

    async def _config(self, entry: str) -> ModelConfig:
        request = service_pb2.ModelConfigRequest(name=entry)
        return (await _told(self._stub.ModelConfig(request, timeout=CALL_TIMEOUT_S))).config


async def _told(call: Awaitable[Reply]) -> Reply:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise TritonError(error.details() or error.code().name) from error
