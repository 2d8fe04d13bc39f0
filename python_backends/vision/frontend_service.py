"""The `image_frontend` entry: encoded image in, pixel values out. A process without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_torch_out
from python_backends.triton_io import Array, Inputs, answer_each, entry_folder, entry_parameters, load_errors_named
from python_backends.vision.images import decode_image
from python_backends.vision.processor import PixelProcessor


@dataclass(frozen=True)
class ImageFrontendOptions:
    """Parameters of the `image_frontend` entry, see docs/contracts.md; 0 means the checkpoint's own bound."""

    model: str
    min_pixels: int = 0
    max_pixels: int = 0

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels"):
            if getattr(self, name) < 0:
                raise ValueError(f"parameter {name!r} must not be negative, got {getattr(self, name)}")


class ImageFrontend:
    """Triton's Python model for `image_frontend`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = read_options(ImageFrontendOptions, entry_parameters(args), folder)
            keep_torch_out()
            model = checkpoint_path(folder, options.model)
            self._processor = PixelProcessor(model, options.min_pixels, options.max_pixels)

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_each(requests, self._answer)

    def _answer(self, inputs: Inputs) -> dict[str, Array]:
        image = decode_image(bytes(inputs.need("image").reshape(-1)[0]))
        made = self._processor(image)
        shape = np.array(made.pixel_values.shape, np.int64)
        return {"pixel_values": made.pixel_values.reshape(-1), "pixel_shape": shape, "image_grid": made.grid}
