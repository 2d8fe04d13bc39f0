"""A real gRPC server that answers as the `vision` entry does, and a client of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

from python_backends.llm.vision_client import VisionClient

Encoded = tuple[np.ndarray[Any, Any], tuple[int, int, int]]


def first_byte(image: bytes) -> Encoded:
    """Two features of the image's first byte."""
    return np.full((2, 3), image[0], np.float32), (1, 2, 4)


class Vision(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with what `make` says, features and grid; an image that names a failure fails so."""

    def __init__(self, make: Callable[[bytes], Encoded] = first_byte) -> None:
        self.make = make
        self.asked: list[bytes] = []
        self.bounds: list[dict[str, int]] = []
        self.all_here = threading.Barrier(1)
        self.parameters = {"image_frontend": {"max_pixels": "0"}, "vision_encoder": {"model": "a"}}

    def ModelConfig(self, request: Any, context: Any) -> Any:
        reply = pb.ModelConfigResponse()
        reply.config.name = request.name
        for key, value in self.parameters.get(request.name, {}).items():
            reply.config.parameters[key].string_value = value
        if request.name == "vision":
            for step in self.parameters:
                reply.config.ensemble_scheduling.step.add(model_name=step)
        return reply

    def ModelInfer(self, request: Any, context: Any) -> Any:
        image = request.raw_input_contents[0][4:]
        self.asked.append(image)
        pairs = zip(request.inputs, request.raw_input_contents, strict=True)
        given = {tensor.name: raw for tensor, raw in pairs if tensor.name != "image"}
        self.bounds.append({name: int.from_bytes(raw, "little") for name, raw in given.items()})
        self.all_here.wait(5)
        if image.startswith(b"["):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble 'vision', {image.decode()}")
        if image == b"crash":
            context.abort(grpc.StatusCode.INTERNAL, "a stack trace")
        features, grid = self.make(image)
        reply = pb.ModelInferResponse(model_name=request.model_name)
        reply.outputs.add(name="image_grid", datatype="INT64", shape=[1, 3])
        reply.raw_output_contents.append(np.array(grid, np.int64).tobytes())
        reply.outputs.add(name="features", datatype="FP32", shape=[1, *features.shape])
        reply.raw_output_contents.append(features.tobytes())
        return reply


@contextmanager
def listening(vision: Vision) -> Iterator[str]:
    """Its address as host:port."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_GRPCInferenceServiceServicer_to_server(vision, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def served(vision: Vision, cache_bytes: int = 1 << 20) -> Iterator[VisionClient]:
    with listening(vision) as address:
        client = VisionClient(address, "vision", cache_bytes)
        yield client
        client.close()
