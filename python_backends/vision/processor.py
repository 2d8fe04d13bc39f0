"""From an image or a video to the pixel values that a checkpoint's vision tower wants, by its own image processor.

Knows transformers' image processors (their PIL versions; torch is not needed). Refuses to know file formats, models and
Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from python_backends.errors import InvalidInput, Unsupported
from python_backends.vision.videos import Video

# Their towers take the frames of a video as they take an image, only with a longer grid.
_VIDEO_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PixelInput:
    """pixel_values float32 in the processor's shape; grid int64 [3]: time, height, width in patches.

    size int64 [2] is the height and width before resizing. prompt is what stands for the image in the prompt where that
    is more than one run of placeholders (rows and columns of Idefics3), else empty. seconds_per_grid is how far the
    patches of a video are apart in time; 0 for an image.
    """

    pixel_values: Array
    grid: Array
    size: Array
    prompt: str = ""
    seconds_per_grid: float = 0.0


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
        config = AutoConfig.from_pretrained(model)
        self._patch_size = _patch_size(config)
        self._family = config.model_type
        self._layouts = getattr(getattr(config, "vision_config", None), "supported_aspect_ratios", ())
        self._has_bounds = "image_grid_thw" in self._processor.model_input_names
        self._size = _bounded(self._processor, min_pixels, max_pixels)
        self._more = {"return_row_col_info": True} if hasattr(self._processor, "return_row_col_info") else {}
        self._prompts: ImagePrompts | None = ImagePrompts(model, config.model_type, self._processor)
        self._frame_marks = _frame_marks(model, config) if config.model_type.startswith("qwen3_vl") else ("", "", "")
        # Most families write nothing but placeholders, and need not keep a tokenizer for that.
        if not self(Image.new("RGB", (64, 64))).prompt:
            self._prompts = None

    def __call__(self, image: Image.Image, min_pixels: int = 0, max_pixels: int = 0) -> PixelInput:
        """Bounds of one image hold inside the server's, and only where the family has any.

        Raises InvalidInput, naming `image`, when the processor refuses it (for instance 1 x 1000 pixels).
        """
        made = self._made(image, min_pixels, max_pixels, "image")
        pixel_values = np.asarray(made["pixel_values"], np.float32)
        return PixelInput(
            pixel_values,
            self._grid(made, pixel_values),
            np.array(made["image_sizes"][0] if "image_sizes" in made else (image.height, image.width), np.int64),
            self._prompts.of(made) if self._prompts else "",
        )

    @property
    def frames_per_patch(self) -> int:
        return int(getattr(self._processor, "temporal_patch_size", 1))

    def check_video(self) -> None:
        """Raises Unsupported for a family that takes no videos."""
        if self._family not in _VIDEO_FAMILIES:
            raise Unsupported(f"models of the family {self._family!r} take no videos", "video")

    def video(self, video: Video, min_pixels: int = 0, max_pixels: int = 0) -> PixelInput:
        """The bounds hold for each frame. Raises InvalidInput, naming `video`."""
        frames: list[Array] = []
        size = grid = (0, 0)
        for frame in video.frames():
            if not frames:
                size = (frame.height, frame.width)
            # All patches must fit one grid, also where a stream changes its size on the way.
            fitted = frame if (frame.height, frame.width) == size else frame.resize(size[::-1])
            made = self._made(fitted, min_pixels, max_pixels, "video")
            grid = tuple(made["image_grid_thw"][0].tolist()[1:])
            frames.append(self._one_frame(np.asarray(made["pixel_values"], np.float32)))
        patch = self.frames_per_patch
        frames += [frames[-1]] * (-len(frames) % patch)
        pairs = [np.stack(frames[first : first + patch], axis=2) for first in range(0, len(frames), patch)]
        return PixelInput(
            np.concatenate(pairs).reshape(len(pairs) * len(frames[0]), -1),
            np.array([len(pairs), *grid], np.int64),
            np.array(size, np.int64),
            self._timed_prompt(video, len(pairs), int(np.prod(grid))),
            patch / video.sampled_fps,
        )

    def _made(self, image: Image.Image, min_pixels: int, max_pixels: int, field: str) -> Any:
        size = _narrowed(self._size, min_pixels, max_pixels) if self._has_bounds else self._size
        try:
            return self._processor(images=[image], size=size, return_tensors="np", **self._more)
        except ValueError as error:
            raise InvalidInput(str(error), field) from error

    def _one_frame(self, patches: Array) -> Array:
        """[n, channels * frames * area] of an image, which repeats its one frame -> [n, channels, area]."""
        return patches.reshape(len(patches), -1, self.frames_per_patch, self._patch_size**2)[:, :, 0]

    def _timed_prompt(self, video: Video, num_patches: int, patch_area: int) -> str:
        """Qwen3-VL's text for a video: each patch of frames after its time. Others have placeholders only."""
        start, placeholder, end = self._frame_marks
        frame = f"{start}{placeholder * (patch_area // self._processor.merge_size**2)}{end}"
        times = video.times(self.frames_per_patch)[:num_patches]
        return "".join(f"<{time:.1f} seconds>{frame}" for time in times) if placeholder else ""

    def _grid(self, made: Any, pixel_values: Array) -> Array:
        """Without image_grid_thw the patches of one [..., height, width] image before any pooling, or its tiles."""
        if "image_grid_thw" in made:
            return np.asarray(made["image_grid_thw"][0], np.int64)
        if "aspect_ratio_ids" in made:
            return np.array([1, *self._layouts[int(made["aspect_ratio_ids"][0][0]) - 1]], np.int64)
        height, width = pixel_values.shape[-2:]
        return np.array([1, height // self._patch_size, width // self._patch_size], np.int64)


class ImagePrompts:
    """What the family's own processor class writes into a prompt for an image."""

    def __init__(self, model: str, family: str, image_processor: Any) -> None:
        self._processor = _text_side(model, family, image_processor)

    def of(self, made: Any) -> str:
        """The text for the one image of `made`; empty where it is nothing but placeholders."""
        if self._processor is None:
            return ""
        try:
            text: str = self._processor.replace_image_token(made, image_idx=0)
        except (KeyError, TypeError, AttributeError):  # older checkpoints lack what their class now asks for
            return ""
        return text if text.replace(self._processor.image_token, "") else ""


def _text_side(model: str, family: str, image_processor: Any) -> Any:
    """The checkpoint's processor without its video half, which cannot be made without torch; None if it has none."""
    import transformers
    from transformers import AutoTokenizer
    from transformers.models.auto import processing_auto

    name = processing_auto.__dict__["PROCESSOR_MAPPING_NAMES"].get(family)
    whole: Any = getattr(transformers, name, None) if name else None
    if whole is None or not hasattr(whole, "replace_image_token") or not hasattr(whole, "get_attributes"):
        return None

    class ImagesOnly(whole):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    settings, _ = whole.get_processor_dict(model)
    missing = [None for attribute in whole.get_attributes() if attribute not in ImagesOnly.get_attributes()]
    parts = [image_processor, AutoTokenizer.from_pretrained(model), *missing]
    return ImagesOnly.from_args_and_dict(parts, settings)


def _frame_marks(model: str, config: Any) -> tuple[str, str, str]:
    """The tokens around and for the features of a frame."""
    from transformers import AutoTokenizer

    ids = [config.vision_start_token_id, config.video_token_id, config.vision_end_token_id]
    start, placeholder, end = list(AutoTokenizer.from_pretrained(model).convert_ids_to_tokens(ids))
    return start, placeholder, end


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


def _narrowed(size: dict[str, int], min_pixels: int, max_pixels: int) -> dict[str, int]:
    """`size` with one image's wish; what lies outside the server's bounds is moved to the nearer one."""
    if min_pixels and max_pixels and min_pixels > max_pixels:
        raise InvalidInput(f"{min_pixels} is more than max_pixels, {max_pixels}", "min_pixels")
    low, high = size["shortest_edge"], size["longest_edge"]
    wishes = {"shortest_edge": min_pixels or low, "longest_edge": max_pixels or high}
    return {edge: min(max(wish, low), high) for edge, wish in wishes.items()}
