"""Features equal Hugging Face's own on the same weights, alone and with other images in the same forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from python_backends.errors import InvalidInput
from python_backends.vision.encoder import VisionEncoder
from python_backends.vision.processor import PixelInput, PixelProcessor
from tests.backends.vision import tiny

SIZES = [(64, 64), (130, 70), (56, 140), (64, 64)]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("models"), request.param))


def images(folder: str) -> list[PixelInput]:
    processor = PixelProcessor(folder)
    numbers = np.random.default_rng(3)
    return [processor(Image.fromarray(numbers.integers(0, 256, (h, w, 3), np.uint8))) for w, h in SIZES]


def reference(folder: str, image: PixelInput) -> np.ndarray:  # type: ignore[type-arg]
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    grid = {} if folder.endswith("llava") else {"image_grid_thw": torch.from_numpy(image.grid)[None]}
    with torch.no_grad():
        found = model.get_image_features(pixel_values=torch.from_numpy(image.pixel_values), **grid)
    # Features of later layers (DeepStack) beside those of the first.
    deep = [level[0] for level in getattr(found, "deepstack_features", None) or []]
    return np.concatenate([found.pooler_output[0], *deep], axis=-1)


def test_together_and_alone_equal_hugging_face(folder: str) -> None:
    encoder = VisionEncoder(folder, "float32")
    inputs = images(folder)
    together = encoder.encode(inputs)
    for image, found in zip(inputs, together, strict=True):
        wanted = reference(folder, image)
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 1e-5
        assert np.abs(encoder.encode([image])[0] - wanted).max() < 1e-5
    assert np.abs(together[0] - together[3]).max() > 1e-3, "different pictures must differ"


def test_the_language_model_is_not_kept(folder: str) -> None:
    kept = {name for name, _ in VisionEncoder(folder)._model.named_parameters()}
    assert kept
    assert not [name for name in kept if "language_model" in name or "lm_head" in name]


def test_no_images_need_no_forward(folder: str) -> None:
    assert VisionEncoder(folder).encode([]) == []


def test_pixels_that_do_not_fit_their_grid_are_refused(tmp_path: Path) -> None:
    encoder = VisionEncoder(str(tiny.save(tmp_path, "qwen2_vl")))
    for shape in [(16, 1000), (15, 1176), (16 * 1176,)]:
        with pytest.raises(InvalidInput, match="does not fit the grid"):
            encoder.check(PixelInput(np.zeros(shape, np.float32), np.array([1, 4, 4]), np.array([56, 56])))
    encoder.check(PixelInput(np.zeros((16, 1176), np.float32), np.array([1, 4, 4]), np.array([56, 56])))


def test_states_of_tiles_equal_hugging_face(tmp_path: Path) -> None:
    folder = str(tiny.save(tmp_path, "mllama", std=0.15))
    model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor: Any = AutoImageProcessor
    encoder = VisionEncoder(folder, "float32")
    numbers = np.random.default_rng(3)
    pictures = [Image.fromarray(numbers.integers(0, 256, (h, w, 3), np.uint8)) for w, h in SIZES]
    for picture, inputs, found in zip(pictures, images(folder), encoder.encode(images(folder)), strict=True):
        encoder.check(inputs)
        made = processor.from_pretrained(folder, backend="pil")(images=[picture], return_tensors="pt")
        made.pop("num_tiles")
        with torch.no_grad():
            wanted = model.model.multi_modal_projector(model.model.vision_model(**made).last_hidden_state)
        assert np.abs(found - wanted.reshape(found.shape).numpy()).max() < 1e-4
    assert len({tuple(inputs.grid) for inputs in images(folder)}) > 1, "all were cut alike"


def test_tiles_in_no_known_order_are_refused(tmp_path: Path) -> None:
    encoder = VisionEncoder(str(tiny.save(tmp_path, "mllama")))
    for shape, grid in [((1, 1, 4, 3, 56, 56), [1, 3, 2]), ((1, 1, 3, 3, 56, 56), [1, 1, 2]), ((3, 56, 56), [1, 1, 1])]:
        with pytest.raises(InvalidInput, match="is no image of up to 4 tiles"):
            encoder.check(PixelInput(np.zeros(shape, np.float32), np.array(grid), np.array([56, 56])))
