"""Requests as NVIDIA's bundled clients make them, and answers read as they read them, on tritonserver as it comes."""

from __future__ import annotations

import json
import queue
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.bare_triton import BareTriton, bare_tritonserver
from tests.source_tree import ROOT

pytestmark = pytest.mark.triton

PROMPT = "<|im_start|>user\nTell me about yourself.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareTriton]:
    repository = tmp_path_factory.mktemp("repository")
    entries = [ROOT / "model_repository/llm", *(ROOT / "examples/native_entries").iterdir()]
    for entry in entries:
        (repository / entry.name).symlink_to(entry)
    with bare_tritonserver(repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


def tensor(name: str, array: np.ndarray[Any, Any]) -> grpcclient.InferInput:
    made = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def heard(url: str, model: str, inputs: list[grpcclient.InferInput]) -> list[Any]:
    """All text_outputs of one streamed request, each as the client indexes it."""
    replies: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: replies.put(error or result))
        outputs = [grpcclient.InferRequestedOutput("text_output")]
        client.async_stream_infer(model, inputs, outputs=outputs, request_id="7")
        client.stop_stream()
    found = list(replies.queue)
    for reply in found:
        if isinstance(reply, InferenceServerException):
            raise reply
    return [reply.as_numpy("text_output")[0].decode() for reply in found]


def end_to_end(streaming: bool, beam_width: int = 1) -> list[grpcclient.InferInput]:
    """What end_to_end_grpc_client.py always sends; everything has two dimensions."""
    return [
        tensor("text_input", np.array([[PROMPT]]).astype(object)),
        tensor("max_tokens", np.array([[30]], np.int32)),
        tensor("stream", np.array([[streaming]])),
        tensor("beam_width", np.array([[beam_width]], np.int32)),
        tensor("temperature", np.array([[0.0]], np.float32)),
        tensor("exclude_input_in_output", np.array([[True]])),
    ]


def test_the_end_to_end_client(served: BareTriton) -> None:
    parts = heard(served.grpc, "ensemble", end_to_end(streaming=True))
    whole = heard(served.grpc, "ensemble", end_to_end(streaming=False))
    assert len(parts) > 10 and len(whole) == 1
    assert "".join(parts) == whole[0] and "demo model" in whole[0]
    with pytest.raises(InferenceServerException, match=r"\[UNIMPLEMENTED\] beam_width: there is no beam search"):
        heard(served.grpc, "ensemble", end_to_end(streaming=True, beam_width=2))


def vllm(stream: bool, **sampling: str) -> list[grpcclient.InferInput]:
    """What the sample client of vllm_backend sends; nothing has a batch dimension, and numbers are text."""
    return [
        tensor("text_input", np.array([PROMPT.encode()], np.object_)),
        tensor("stream", np.array([stream], bool)),
        tensor("sampling_parameters", np.array([json.dumps(sampling).encode()], np.object_)),
    ]


def test_the_sample_client_of_vllm(served: BareTriton) -> None:
    parts = heard(served.grpc, "vllm_model", vllm(True, temperature="0", max_tokens="30"))
    [whole] = heard(served.grpc, "vllm_model", vllm(False, temperature="0", max_tokens="30"))
    assert len(parts) > 10 and whole == PROMPT + "".join(parts)
    with pytest.raises(InferenceServerException, match=r"\[INVALID_ARGUMENT\] top_p: must be between"):
        heard(served.grpc, "vllm_model", vllm(True, top_p="3"))


def test_the_llmapi_client_and_its_stop(served: BareTriton) -> None:
    def ask(size: int) -> Any:
        inputs = [
            tensor("text_input", np.array([PROMPT], object)),
            tensor("sampling_param_max_tokens", np.array([size], np.int32)),
        ]
        return client.infer("tensorrt_llm", inputs, request_id="1", client_timeout=60)

    with grpcclient.InferenceServerClient(served.grpc) as client:
        answer = ask(5).as_numpy("text_output")
        assert answer.shape == (1,) and answer[0].decode().startswith(PROMPT)
        # The word `stop` gets through while the first request is being answered.
        stop = [tensor("text_input", np.empty([1], np.bytes_)), tensor("stop", np.array([True]))]
        ended: list[Any] = []
        asking = threading.Thread(target=lambda: ended.append(ask(1500)))
        asking.start()
        while asking.is_alive():
            client.infer("tensorrt_llm", stop, request_id="1", client_timeout=60)
            asking.join(0.2)
    assert ended[0].as_numpy("finish_reason")[0] in (b"abort", b"stop")


def test_tritons_generate_extension(served: BareTriton) -> None:
    body = {"text_input": PROMPT, "max_tokens": 8, "temperature": 0.0}

    def post(path: str, stream: bool) -> bytes:
        data = json.dumps({**body, "stream": stream}).encode()
        with urllib.request.urlopen(f"http://{served.http}/v2/models/llm/{path}", data, timeout=60) as reply:
            found: bytes = reply.read()
            return found

    whole = json.loads(post("generate", stream=False))
    assert (whole["finish_reason"], whole["num_output_tokens"]) == ("length", 8)
    events = [json.loads(line[6:]) for line in post("generate_stream", stream=True).splitlines() if line]
    assert len(events) == 8 and "".join(event["text_output"] for event in events) == whole["text_output"]
