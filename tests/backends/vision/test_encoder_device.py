"""The encoder on a GPU, where there is one, and in 16 bits: the same features, as float32 in the machine's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from python_backends.vision.encoder import VisionEncoder
from python_backends.vision.encoder_options import VisionEncoderOptions
from tests.backends.vision import tiny
from tests.backends.vision.test_encoder import images, reference

KINDS = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_gpu_equal_those_of_hugging_face(kind: str, tmp_path: Path) -> None:
    folder = str(tiny.save(tmp_path, kind))
    encoder = VisionEncoder(folder, "float32")
    assert {weight.device.type for weight in encoder._model.parameters()} == {"cuda"}
    inputs = images(folder)
    # With cuDNN convolutions are TF32, of 10 bits.
    with torch.backends.cudnn.flags(enabled=False):
        together = encoder.encode(inputs)
        alone = [encoder.encode([image])[0] for image in inputs]
    for image, *found in zip(inputs, together, alone, strict=True):
        wanted = reference(folder, image)
        for features in found:
            assert features.dtype == np.float32
            assert np.abs(features - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", KINDS)
def test_16_bits_give_nearly_the_same_features_as_float32(kind: str, tmp_path: Path) -> None:
    folder = str(tiny.save(tmp_path, kind))
    inputs = images(folder)
    encoder = VisionEncoder(folder, "bfloat16")
    assert {weight.dtype for weight in encoder._model.parameters()} == {torch.bfloat16}
    for found, wanted in zip(encoder.encode(inputs), VisionEncoder(folder, "float32").encode(inputs), strict=True):
        assert found.dtype == np.float32 and found.shape == wanted.shape
        likeness = (found * wanted).sum() / (np.linalg.norm(found) * np.linalg.norm(wanted))
        assert 0.99 < likeness < 0.999999


def test_tensorrt_is_refused_at_load() -> None:
    with pytest.raises(ValueError, match="parameter 'engine' is 'tensorrt': the encoder runs on torch only"):
        VisionEncoderOptions("some", engine="tensorrt")
