"""The `image_frontend` entry: encoded image or video in, pixel values out. A process without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from python_backends.errors import InvalidInput
from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_torch_out
from python_backends.triton_io import (
    Array,
    Inputs,
    answer_each,
    entry_folder,
    entry_parameters,
    load_errors_named,
    text_array,
)
from python_backends.vision.images import decode_image
from python_backends.vision.processor import PixelInput, PixelProcessor
from python_backends.vision.videos import sample_video


@dataclass(frozen=True)
class ImageFrontendOptions:
    """Parameters of the `image_frontend` entry, see docs/contracts.md; 0 pixels mean the checkpoint's own bound.

    max_frame_pixels is the default of Qwen's own video processor.
    """

    model: str
    min_pixels: int = 0
    max_pixels: int = 0
    video_fps: float = 2.0
    max_video_frames: int = 32
    max_frame_pixels: int = 768 * 28 * 28

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels"):
            if getattr(self, name) < 0:
                raise ValueError(f"parameter {name!r} must not be negative, got {getattr(self, name)}")
        for name in ("video_fps", "max_video_frames", "max_frame_pixels"):
            if getattr(self, name) <= 0:
                raise ValueError(f"parameter {name!r} must be greater than 0, got {getattr(self, name)}")


class ImageFrontend:
    """Triton's Python model for `image_frontend`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = self._options = read_options(ImageFrontendOptions, entry_parameters(args), folder)
            keep_torch_out()
            model = checkpoint_path(folder, options.model)
            self._processor = PixelProcessor(model, options.min_pixels, options.max_pixels)

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_each(requests, self._answer)

    def _answer(self, inputs: Inputs) -> dict[str, Array]:
        images, videos = inputs.blobs("image"), inputs.blobs("video")
        if len(images) + len(videos) != 1:
            raise InvalidInput("exactly one of image and video is required", "image")
        bounds = _pixels(inputs, "min_pixels"), _pixels(inputs, "max_pixels")
        made = self._processor(decode_image(images[0]), *bounds) if images else self._video(inputs, videos[0], *bounds)
        return {
            "pixel_values": made.pixel_values.reshape(-1),
            "pixel_shape": np.array(made.pixel_values.shape, np.int64),
            "image_grid": made.grid,
            "image_size": made.size,
            "image_prompt": text_array(made.prompt),
            "seconds_per_grid": np.array([made.seconds_per_grid], np.float32),
        }

    def _video(self, inputs: Inputs, data: bytes, min_pixels: int, max_pixels: int) -> PixelInput:
        self._processor.check_video()
        fps = float(inputs.scalar("fps", self._options.video_fps))
        if not 0 < fps < math.inf:
            raise InvalidInput(f"must be greater than 0, got {fps}", "fps")
        video = sample_video(data, fps, self._options.max_video_frames, self._processor.frames_per_patch)
        largest = self._options.max_frame_pixels
        return self._processor.video(video, min(min_pixels, largest), min(max_pixels or largest, largest))


def _pixels(inputs: Inputs, name: str) -> int:
    value = int(inputs.scalar(name, 0))
    if value < 0:
        raise InvalidInput(f"must not be negative, got {value}", name)
    return value
