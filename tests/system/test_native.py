"""What a native gRPC client gets from `llm` and the ensembles, by NVIDIA's own client."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conftest import System
from tests.native import joined, number, stream, text
from tests.pictures import draw

pytestmark = pytest.mark.triton


def messages(content: Any) -> np.ndarray[Any, Any]:
    return text(json.dumps([{"role": "user", "content": content}]))


def test_a_stream_ends_with_its_reason_and_counts(triton: System) -> None:
    inputs = {"messages": messages("Who are you?"), "temperature": number(0, np.float32)}
    responses = stream(triton.grpc, "llm", inputs)
    *earlier, last = responses
    assert all(not response["finish_reason"].item() for response in earlier)
    assert last["finish_reason"].item() == b"stop"
    assert json.loads(last["timings"].item())["total_s"] > 0
    assert joined(responses)


def test_an_image_without_a_part_is_put_before_the_question(triton: System) -> None:
    picture = text(draw(("blue", "square")))
    placed = stream(triton.grpc, "llm", {"messages": messages("What is in the picture?"), "image": picture})
    content = [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]
    explicit = stream(triton.grpc, "llm", {"messages": messages(content), "image": picture})
    assert joined(placed) == joined(explicit)
    assert "blue square" in joined(placed)
    assert placed[-1]["num_image_tokens"].item() > 0


def test_the_ensemble_answers_like_the_model(triton: System) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]
    inputs = {"image": text(draw(("red", "triangle"))), "messages": messages(content)}
    assert joined(stream(triton.grpc, "multimodal_chat", inputs)) == joined(stream(triton.grpc, "llm", inputs))


def test_stop_ends_a_request_by_its_id(triton: System) -> None:
    endless = {
        "messages": messages("Who are you?"),
        "max_tokens": number(1900, np.int32),
        "sampling_parameters": text('{"ignore_eos": true}'),
    }
    collected: list[list[dict[str, Any]]] = []
    reader = threading.Thread(target=lambda: collected.append(stream(triton.grpc, "llm", endless, "to-be-stopped")))
    reader.start()
    while not collected and reader.is_alive():
        time.sleep(0.2)
        stream(triton.grpc, "llm", {"stop": number(1, np.bool_)}, "to-be-stopped")
    reader.join(30)
    assert collected[0][-1]["finish_reason"].item() == b"abort"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"top_p": number(1, np.float32)}, r"\[INVALID_ARGUMENT\] messages: exactly one of"),
        ({"messages": text("{")}, r"\[INVALID_ARGUMENT\] messages: not valid JSON"),
        ({"text_input": text("hi"), "top_p": number(3, np.float32)}, r"\[INVALID_ARGUMENT\] top_p: must be between"),
        ({"text_input": text("hi"), "lora_name": text("x")}, r"\[INVALID_ARGUMENT\] lora_name: 'x' is not an adapter"),
        ({"text_input": text("hi"), "lora_weights": text("x")}, "unexpected inference input 'lora_weights'"),
        ({"text_input": text("hi"), "max_tokens": number(9999, np.int32)}, r"\[OUT_OF_RANGE\] max_tokens"),
        ({"text_input": text("hi"), "image": text(draw(("red", "circle")))}, r"\[INVALID_ARGUMENT\] image"),
        (
            {
                "text_input": text("<|image_pad|>"),
                "image_embeds": np.full((1, 4, 192), np.nan, np.float32),
                "image_grid": np.array([[1, 4, 4]], np.int64),
            },
            r"\[INVALID_ARGUMENT\] image_embeds: must be finite",
        ),
    ],
)
def test_bad_requests_name_the_field(triton: System, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        stream(triton.grpc, "llm", inputs)
