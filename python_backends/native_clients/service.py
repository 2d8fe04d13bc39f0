"""Triton's Python models for `ensemble`, `vllm_model` and `tensorrt_llm`: each translates, and `llm` answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from python_backends.native_clients import dialects
from python_backends.native_clients.llm_client import LlmClient, replies
from python_backends.triton_io import Array, Responder, answer_as_it_is, load_errors_named, tensors_of

# Requests at a time; what is beyond waits here, and is refused by `llm` if it comes to that.
_MAX_CALLS = 128
_POLL_S = 0.05


class _Entry:
    """What the three share: the way to `llm`, and threads that wait for it."""

    dialect: dialects.Dialect

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            self._client = LlmClient(os.environ.get("TRIMODAL_GRPC_ENDPOINT", "127.0.0.1:8001"))
            self._threads = ThreadPoolExecutor(_MAX_CALLS, args["model_name"])

    def finalize(self) -> None:
        self._threads.shutdown()
        self._client.close()


class _Streaming(_Entry):
    """Decoupled: a response for each of `llm`. A client that leaves cancels the call."""

    def initialize(self, args: Mapping[str, str]) -> None:
        super().initialize(args)
        self._open: dict[Any, Responder] = {}
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._cancel_the_gone, name="watch", daemon=True)
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            responder = Responder(request)
            self._threads.submit(self._serve, tensors_of(request), request.request_id(), responder)

    def finalize(self) -> None:
        for call in tuple(self._open):
            call.cancel()
        self._closing.set()
        self._watch.join()
        super().finalize()

    def _serve(self, tensors: dict[str, Array], request_id: str, responder: Responder) -> None:
        try:
            call = self._client.start(self.dialect.read(tensors), request_id)
            self._open[call] = responder
            try:
                for reply in replies(call):
                    responder.send_as_it_is(self.dialect.write(reply))
            finally:
                del self._open[call]
        except Exception as error:  # becomes the error reply to this request
            responder.fail(error)
        else:
            responder.close()

    def _cancel_the_gone(self) -> None:
        while not self._closing.wait(_POLL_S):
            for call, responder in tuple(self._open.items()):
                with suppress(Exception):  # it has ended since, and its channel cannot be asked any more
                    if responder.is_cancelled():
                        call.cancel()


class Ensemble(_Streaming):
    dialect = dialects.ENSEMBLE


class VllmModel(_Streaming):
    dialect = dialects.VLLM


class TensorRTLLM(_Entry):
    """One response for each request, as a client that calls without a stream needs it."""

    dialect = dialects.LLMAPI

    def execute(self, requests: list[Any]) -> list[Any]:
        asked = [self._threads.submit(self._ask, tensors_of(each), each.request_id()) for each in requests]
        return [answer_as_it_is(future.result) for future in asked]

    def _ask(self, tensors: dict[str, Array], request_id: str) -> dict[str, Array]:
        call = self._client.start(self.dialect.read(tensors), request_id)
        found = [self.dialect.write(reply) for reply in replies(call)]
        return found[-1] if found else dialects.NOTHING
