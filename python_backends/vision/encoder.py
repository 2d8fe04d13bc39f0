"""From pixel values to image features, by the checkpoint's vision tower and projector.

Knows torch and Hugging Face's `get_image_features`. Refuses to know image files and Triton. Images that wait together
go through the tower in one forward; each one's features equal those it gets alone.
"""

from __future__ import annotations

import gc
import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from python_backends.errors import InvalidInput, Unsupported
from python_backends.torch_engine.linear import pack_linears
from python_backends.turns import turns_on
from python_backends.vision.processor import PixelInput
from python_backends.vision.tiles import TileTower
from python_backends.whole_attention import WHOLE_ATTENTION

Array = np.ndarray[Any, Any]

# Patches of an image of common size.
_PATCHES = 1024
_GIVEN = frozenset({"pixel_values", "image_grid_thw", "image_sizes"})


class VisionEncoder:
    """The vision half of the checkpoint in the folder or hub repository `model`.

    dtype is `auto` (the checkpoint's), `float32`, `bfloat16` or `float16`. Raises Unsupported for a family whose tower
    needs more than pixels, their grid and the sizes of the images.
    """

    def __init__(self, model: str, dtype: str = "auto") -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype)
        self._model = _without_language_model(loaded).to(self._device).eval()
        pack_linears(self._model, "none", rows=_PATCHES)
        self._model.set_attn_implementation(WHOLE_ATTENTION)
        self._tiles = None if hasattr(self._model, "get_image_features") else TileTower(self._model)
        arguments = () if self._tiles else inspect.signature(self._model.get_image_features).parameters.values()
        self._takes_grid = any(argument.name == "image_grid_thw" for argument in arguments)
        self._takes_sizes = any(argument.name == "image_sizes" for argument in arguments)
        missing = [argument.name for argument in arguments if _is_required(argument) and argument.name not in _GIVEN]
        if missing:
            raise Unsupported(f"{type(self._model).__name__} needs {missing[0]} beside the pixels", "model")
        self.patch_dim = _patch_dim(self._model) if self._takes_grid else 0
        self._turns = turns_on(self._device)

    @torch.inference_mode()
    def encode(self, images: Sequence[PixelInput]) -> list[Array]:
        """Features [n, d] float32 of each image, n tokens each, in Hugging Face's order.

        d is the decoder's hidden size, times one more for each layer that gets features of its own.
        """
        features: dict[int, Array] = {}
        for group in self._groups(images):
            with self._turns.turn():
                encoded = self._forward([images[index] for index in group])
            for index, found in zip(group, encoded, strict=True):
                features[index] = found.reshape(-1, found.shape[-1]).float().cpu().numpy()
        return [features[index] for index in range(len(images))]

    def check(self, image: PixelInput) -> None:
        """Raises InvalidInput for what no image processor made for this model could have sent."""
        if self._tiles:
            self._tiles.check(image)
        shape = image.pixel_values.shape
        if self._takes_grid and (len(shape) != 2 or shape[1] != self.patch_dim or shape[0] != image.grid.prod()):
            raise InvalidInput(
                f"{list(shape)} does not fit the grid {image.grid.tolist()} of patches of {self.patch_dim} values",
                "pixel_shape",
            )

    def _groups(self, images: Sequence[PixelInput]) -> list[list[int]]:
        """Which images share a forward: all where patches come with grids, else those of one shape.

        On CPU none do: together they are no faster, and others wait for a turn until all are done.
        """
        if self._device.type == "cpu":
            return [[index] for index in range(len(images))]
        if self._takes_grid:
            return [list(range(len(images)))] if images else []
        groups = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.pixel_values.shape].append(index)
        return list(groups.values())

    def _forward(self, images: list[PixelInput]) -> Sequence[torch.Tensor]:
        """The features of each image; those of one shape have equally many."""
        pixels = torch.from_numpy(np.concatenate([image.pixel_values for image in images]))
        extra: dict[str, torch.Tensor] = {}
        if self._takes_grid:
            extra["image_grid_thw"] = torch.from_numpy(np.stack([image.grid for image in images])).to(self._device)
        if self._takes_sizes:
            extra["image_sizes"] = torch.from_numpy(np.stack([image.size for image in images])).to(self._device)
        pixels = pixels.to(self._device, self._model.dtype)
        if self._tiles:
            return self._tiles(images, pixels)
        found = self._model.get_image_features(pixel_values=pixels, **extra, return_dict=True)
        # What later layers of the decoder get of their own (DeepStack) travels beside what the first gets.
        deep = getattr(found, "deepstack_features", None) or []
        parts = [torch.cat(part, dim=-1) for part in zip(found.pooler_output, *deep, strict=True)]
        if len(parts) == len(images):
            return parts
        # Families that cut an image into tiles answer with one row of features per tile.
        return torch.cat(parts).chunk(len(images))


def _is_required(argument: inspect.Parameter) -> bool:
    return argument.default is argument.empty and argument.kind is not argument.VAR_KEYWORD


def _patch_dim(model: Any) -> int:
    """Values per patch of the Qwen-VL towers: channels x frames x height x width."""
    vision: Any = model.config.vision_config
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    return int(channels * vision.temporal_patch_size * vision.patch_size**2)


def _without_language_model(model: Any) -> Any:
    """Give the language model's weights back to the system; what `get_image_features` uses stays."""
    unused = (model.get_decoder(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is part for part in unused)]
    for name in names:
        model.set_submodule(name, torch.nn.Identity())
    gc.collect()
    return model
