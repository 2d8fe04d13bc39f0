"""Calls Triton by gRPC, without the gateway: one streamed answer of `llm` about a picture.

Usage: python examples/native.py [HOST:PORT]
"""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient


def tensor(name: str, value: bytes) -> grpcclient.InferInput:
    made = grpcclient.InferInput(name, [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[value]], np.object_))
    return made


picture = (Path(__file__).parent / "picture.png").read_bytes()
content = [{"type": "image"}, {"type": "text", "text": "How many objects are there?"}]
messages = json.dumps([{"role": "user", "content": content}])

replies: queue.Queue = queue.Queue()
with grpcclient.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
    client.start_stream(lambda result, error: replies.put((result, error)))
    client.async_stream_infer("llm", [tensor("messages", messages.encode()), tensor("image", picture)])
    finish_reason = b""
    while not finish_reason:
        result, error = replies.get(timeout=60)
        if error is not None:
            raise error
        finish_reason = result.as_numpy("finish_reason").item()
        print(result.as_numpy("text_output").item().decode(), end="", flush=True)
    print(f"\nfinish_reason: {finish_reason.decode()}, prompt tokens: {result.as_numpy('num_input_tokens').item()}")
