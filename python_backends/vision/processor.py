"""From an image to the pixel values that a checkpoint's vision tower wants, by the checkpoint's own image processor.

Knows transformers' image processors (their PIL versions; torch is not needed). Refuses to know file formats, models and
Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from python_backends.errors import InvalidInput

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PixelInput:
    """pixel_values float32 in the processor's shape; grid int64 [3]: time, height, width in patches."""

    pixel_values: Array
    grid: Array


class PixelProcessor:
    """The image processor in the folder or hub repository `model`.

    min_pixels and max_pixels bound the area that an image is resized to; 0 keeps the checkpoint's own bound. Raises
    ValueError when the processor has no such bounds.
    """

    def __init__(self, model: str, min_pixels: int = 0, max_pixels: int = 0) -> None:
        # Imported here because transformers decides at import whether torch exists.
        from transformers import AutoConfig, AutoImageProcessor

        processors: Any = AutoImageProcessor
        self._processor = processors.from_pretrained(model, backend="pil")
        self._patch_size = _patch_size(AutoConfig.from_pretrained(model))
        self._size = _bounded(self._processor, min_pixels, max_pixels)

    def __call__(self, image: Image.Image) -> PixelInput:
        """Raises InvalidInput, naming `image`, when the processor refuses it (for instance 1 x 1000 pixels)."""
        try:
            made = self._processor(images=[image], size=self._size, return_tensors="np")
        except ValueError as error:
            raise InvalidInput(str(error), "image") from error
        pixel_values = np.asarray(made["pixel_values"], np.float32)
        grid = made.get("image_grid_thw")
        return PixelInput(
            pixel_values, self._plain_grid(pixel_values) if grid is None else np.asarray(grid[0], np.int64)
        )

    def _plain_grid(self, pixel_values: Array) -> Array:
        """For families without image_grid_thw: the patches of one [..., height, width] image, before any pooling."""
        height, width = pixel_values.shape[-2:]
        return np.array([1, height // self._patch_size, width // self._patch_size], np.int64)


def _patch_size(config: Any) -> int:
    size = getattr(getattr(config, "vision_config", config), "patch_size", None)
    return size if isinstance(size, int) else 1


def _bounded(processor: Any, min_pixels: int, max_pixels: int) -> dict[str, int]:
    """The processor's `size`, with the given bounds in place of its own."""
    size = {key: value for key, value in dict(processor.size).items() if value is not None}
    if not min_pixels and not max_pixels:
        return size
    if "image_grid_thw" not in processor.model_input_names:
        raise ValueError(f"{type(processor).__name__} has no bounds that min_pixels or max_pixels could set")
    bounds = {"shortest_edge": min_pixels or size["shortest_edge"], "longest_edge": max_pixels or size["longest_edge"]}
    if not 0 < bounds["shortest_edge"] <= bounds["longest_edge"]:
        raise ValueError(
            f"min_pixels {bounds['shortest_edge']} and max_pixels {bounds['longest_edge']} exclude each other"
        )
    return bounds
