"""Towers of models whose layers attend to images beside the prompt (Llama 3.2 Vision): an image is a grid of tiles.

The library has no call for their features. So the model is called with pixels, and what its decoder is given is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from python_backends.errors import InvalidInput, Unsupported
from python_backends.vision.processor import PixelInput


class TileTower:
    """The body of `model`, whose decoder is replaced. Raises Unsupported for other families."""

    def __init__(self, model: Any) -> None:
        vision = model.config.vision_config
        if not hasattr(vision, "supported_aspect_ratios"):
            raise Unsupported(f"{type(model).__name__} has no call for the features of an image", "model")
        self._body = model.base_model
        self._body.set_decoder(_Taken())
        self._layouts = [tuple(layout) for layout in vision.supported_aspect_ratios]
        self._max_tiles = int(vision.max_num_tiles)

    def __call__(self, images: Sequence[PixelInput], pixels: torch.Tensor) -> list[torch.Tensor]:
        """pixels [n, 1, tiles, channels, height, width] -> of each image the states [tiles * patches, d]."""
        layouts = [self._layout(image) for image in images]
        ids = torch.tensor([[self._layouts.index(layout) + 1] for layout in layouts], device=pixels.device)
        mask = torch.zeros(len(images), 1, self._max_tiles, dtype=torch.long, device=pixels.device)
        for row, (height, width) in enumerate(layouts):
            mask[row, :, : height * width] = 1
        states = self._body(
            input_ids=torch.zeros_like(ids), pixel_values=pixels, aspect_ratio_ids=ids, aspect_ratio_mask=mask
        ).last_hidden_state
        return list(states.reshape(len(images), -1, states.shape[-1]))

    def check(self, image: PixelInput) -> None:
        """Raises InvalidInput for what no image processor made for this model could have sent."""
        shape = image.pixel_values.shape
        if len(shape) != 6 or shape[:3] != (1, 1, self._max_tiles) or self._layout(image) not in self._layouts:
            raise InvalidInput(
                f"{list(shape)} with the grid {image.grid.tolist()} is no image of up to {self._max_tiles} tiles",
                "pixel_shape",
            )

    def _layout(self, image: PixelInput) -> tuple[int, ...]:
        """Rows and columns of tiles."""
        return tuple(np.asarray(image.grid[1:]).tolist())


class _Taken(torch.nn.Module):
    """Stands for a decoder: what it is told of images is its output."""

    def forward(self, cross_attention_states: torch.Tensor, **others: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=cross_attention_states)
