"""The `vision_encoder` entry: pixel values in, features out; what Triton batched goes through the tower together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from python_backends.errors import InvalidInput
from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_quiet
from python_backends.triton_io import (
    Inputs,
    entry_folder,
    entry_parameters,
    error_response,
    load_errors_named,
    response,
)
from python_backends.vision.encoder_options import VisionEncoderOptions
from python_backends.vision.processor import PixelInput


class VisionEncoderService:
    """Triton's Python model for `vision_encoder`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = read_options(VisionEncoderOptions, entry_parameters(args), folder)
            # Triton also loads this file in a short-lived process that only asks for the configuration.
            from python_backends.vision.encoder import VisionEncoder

            keep_quiet()
            self._encoder = VisionEncoder(checkpoint_path(folder, options.model), options.dtype)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Responses in the order of the requests; a bad request fails alone."""
        read = [self._read(request) for request in requests]
        good = [image for image in read if isinstance(image, PixelInput)]
        features = iter(self._encode(good))
        return [self._reply(next(features) if isinstance(image, PixelInput) else image) for image in read]

    def _read(self, request: Any) -> PixelInput | Exception:
        try:
            image = _pixel_input(Inputs(request))
            self._encoder.check(image)
        except Exception as error:  # becomes the error reply to this request
            return error
        return image

    def _encode(self, images: list[PixelInput]) -> list[Any]:
        try:
            return list(self._encoder.encode(images))
        except Exception as error:  # becomes the error reply to the request at fault
            if len(images) == 1:
                return [error]
        # One of them broke the common forward (out of memory, for instance); the others need not suffer.
        return [result for image in images for result in self._encode([image])]

    def _reply(self, result: Any) -> Any:
        return error_response(result) if isinstance(result, Exception) else response({"features": result})


def _pixel_input(inputs: Inputs) -> PixelInput:
    shape = inputs.need("pixel_shape").tolist()
    pixel_values = inputs.need("pixel_values")
    if min(shape, default=0) < 1 or np.prod(shape) != pixel_values.size:
        raise InvalidInput(f"{shape} is not the shape of {pixel_values.size} values", "pixel_shape")
    size = inputs.array("image_size")
    return PixelInput(
        pixel_values.reshape(shape), inputs.need("image_grid"), np.array(shape[-2:]) if size is None else size
    )
