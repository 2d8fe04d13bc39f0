"""A repository of toy entries for the real tritonserver: a stream of numbers, an echo, and an ensemble of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STREAM = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(pb_utils.get_input_tensor_by_name(request, "count").as_numpy()[0])
            sender = request.get_response_sender()
            threading.Thread(target=self.send, args=(sender, count), daemon=True).start()

    def send(self, sender, count):
        for number in range(count):
            if sender.is_cancelled():
                break
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("value", np.array([number], np.int32))]))
            time.sleep(0.02)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("count", x)]) for x in inputs]
"""

BROKEN = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        raise pb_utils.TritonModelException("broken: OptionError: unknown parameter 'dtpye' = 'x'; known are dtype")

    def execute(self, requests):
        return []
"""


def write_entry(repository: Path, name: str, config: str, model: str = "") -> None:
    """An entry `name`; without `model` an ensemble."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    kind = 'backend: "python"' if model else 'platform: "ensemble"'
    (repository / name / "config.pbtxt").write_text(f'name: "{name}"\n{kind}\n{config}')
    if model:
        (folder / "model.py").write_text(model)


def tensors(given: str, made: str) -> str:
    return "\n".join(
        f'{side} [ {{ name: "{name}" data_type: TYPE_INT32 dims: [ 1 ] }} ]'
        for side, name in (("input", given), ("output", made))
    )


def step(entry: str, given: str, made: str) -> str:
    sides = (("input", given), ("output", made))
    maps = " ".join(f'{side}_map {{ key: "{name}" value: "{name}" }}' for side, name in sides)
    return f'{{ model_name: "{entry}" model_version: -1 {maps} }}'


def write_toys(repository: Path) -> Path:
    write_entry(
        repository, "stream", tensors("count", "value") + "\nmodel_transaction_policy { decoupled: true }", STREAM
    )
    write_entry(repository, "echo", tensors("x", "count"), ECHO)
    first = step("echo", "x", "count")
    second = step("stream", "count", "value")
    steps = f"ensemble_scheduling {{ step [ {first}, {second} ] }}"
    write_entry(repository, "both", tensors("x", "value") + "\n" + steps)
    return repository


def write_checkpoint(folder: Path, **config: Any) -> Path:
    """A folder that says what it is, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


TEXT = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 4096}
VISION = {
    "model_type": "qwen2_5_vl",
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "text_config": {"max_position_embeddings": 1024},
    "vision_config": {"depth": 2},
}
SPEECH = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}
