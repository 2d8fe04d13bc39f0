"""Pixel values are those of the checkpoint's own image processor, for images of any size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from python_backends.errors import InvalidInput
from python_backends.vision.processor import PixelProcessor
from tests.backends.vision import tiny


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("models"), "qwen2_5_vl"))


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (30, 400), (1, 1), (3, 100), (100, 3), (2, 2)])
def test_equals_the_processor_of_the_checkpoint(qwen: str, size: tuple[int, int]) -> None:
    made = PixelProcessor(qwen)(noise(*size))
    reference = AutoImageProcessor.from_pretrained(qwen, backend="pil")(images=[noise(*size)], return_tensors="np")
    assert np.array_equal(made.pixel_values, reference["pixel_values"])
    assert made.grid.tolist() == reference["image_grid_thw"][0].tolist()
    assert made.pixel_values.dtype == np.float32
    assert len(made.pixel_values) == made.grid.prod()


def test_bounds_replace_those_of_the_checkpoint(qwen: str) -> None:
    large = PixelProcessor(qwen, max_pixels=280 * 280)(noise(500, 500))
    small = PixelProcessor(qwen, min_pixels=28 * 28, max_pixels=56 * 56)(noise(500, 500))
    assert large.grid.tolist() == [1, 20, 20]
    assert small.grid.tolist() == [1, 4, 4]


@pytest.mark.parametrize(
    ("wish", "grid"),
    [
        ((0, 0), [1, 20, 20]),
        ((0, 56 * 56), [1, 8, 8]),
        ((140 * 140, 168 * 168), [1, 12, 12]),
        ((1000 * 1000, 0), [1, 20, 20]),
        ((0, 1), [1, 8, 8]),
    ],
)
def test_one_image_may_wish_inside_the_servers_bounds(qwen: str, wish: tuple[int, int], grid: list[int]) -> None:
    processor = PixelProcessor(qwen, min_pixels=112 * 112, max_pixels=280 * 280)
    assert processor(noise(500, 500), *wish).grid.tolist() == grid


def test_a_wish_must_not_exclude_itself(qwen: str) -> None:
    with pytest.raises(InvalidInput, match="more than max_pixels") as caught:
        PixelProcessor(qwen)(noise(50, 50), 100, 50)
    assert caught.value.field == "min_pixels"


@pytest.mark.parametrize("bounds", [(200 * 200, 0), (0, 28 * 28), (100 * 100, 50 * 50)])
def test_bounds_that_exclude_each_other_are_refused(qwen: str, bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        PixelProcessor(qwen, *bounds)


def test_extreme_shapes_are_refused_by_name(qwen: str) -> None:
    with pytest.raises(InvalidInput, match="aspect ratio") as caught:
        PixelProcessor(qwen)(noise(1, 500))
    assert caught.value.field == "image"


def test_families_without_a_grid_get_one_of_their_patches(tmp_path: Path) -> None:
    folder = str(tiny.save(tmp_path, "llava"))
    made = PixelProcessor(folder)(noise(100, 60))
    assert made.pixel_values.shape == (1, 3, 56, 56)
    assert made.grid.tolist() == [1, 4, 4]
    with pytest.raises(ValueError, match="no bounds"):
        PixelProcessor(folder, max_pixels=100)


def test_the_frontends_run_without_torch(qwen: str) -> None:
    program = (
        "import sys\n"
        "from python_backends.transformers_setup import keep_torch_out\n"
        "keep_torch_out()\n"
        "from PIL import Image\n"
        "from python_backends.vision.processor import PixelProcessor\n"
        "grid = PixelProcessor(sys.argv[1])(Image.new('RGB', (56, 56))).grid\n"
        "assert grid.tolist() == [1, 4, 4], grid\n"
        "assert sys.modules['torch'] is None\n"
    )
    subprocess.run([sys.executable, "-c", program, qwen], check=True, timeout=60)
