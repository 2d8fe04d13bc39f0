"""Layers that attend to images beside the prompt (Llama 3.2 Vision), for sequences that share a step.

Knows how the library's decoders take such images: as states that some layers make keys and values of, once, and as a
cache that has those from then on. Refuses to know where features come from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from python_backends.torch_engine.attention import attend
from python_backends.torch_engine.rows import Extent
from python_backends.types import ImageSpan

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Sight:
    """Tokens that see these states of an image, those of its tiles that are not padding."""

    tokens: range
    states: range


def sights(images: Iterable[ImageSpan], max_tiles: int) -> list[Sight]:
    """Who sees which image: the tokens from its own up to the next image.

    Images without text between them are seen by the text after the last one. Every image has the states of `max_tiles`
    tiles; the grid says how many of them show something.
    """
    ordered = sorted(images, key=lambda image: image.start)
    num_states = sum(len(image.features) for image in ordered)
    found: list[Sight] = []
    end = following = sys.maxsize
    for image in reversed(ordered):
        end = end if following == image.end else following
        num_states -= len(image.features)
        num_real = len(image.features) // max_tiles * image.grid[1] * image.grid[2]
        found.append(Sight(range(image.start, end), range(num_states, num_states + num_real)))
        following = image.start
    return found


@dataclass(frozen=True)
class ImageStates:
    """The images of one sequence: keys and values [kv_heads, states, head_dim] by layer, and who sees which of them."""

    layers: dict[int, KeysValues]
    sights: Sequence[Sight]
    num_states: int

    def seen(self, start: int, end: int, device: torch.device) -> torch.Tensor:
        """[end - start, states] bool: which states each of these tokens sees."""
        seen = torch.zeros(end - start, self.num_states, dtype=torch.bool, device=device)
        for sight in self.sights:
            first, last = max(sight.tokens.start, start), min(sight.tokens.stop, end)
            seen[max(0, first - start) : max(0, last - start), sight.states.start : sight.states.stop] = True
        return seen


class CrossAttention:
    """What these layers compute in one step; rows of sequences without images get nothing from them."""

    def __init__(
        self, parts: Sequence[tuple[Extent, ImageStates]], num_rows: int, layers: frozenset[int], like: torch.Tensor
    ) -> None:
        """`like` has the type and the device of the model."""
        self.layers = layers
        self._gates = like.new_zeros(1, 1, num_rows, 1)
        self._parts: list[tuple[slice, ImageStates, torch.Tensor]] = []
        for extent, states in parts:
            rows = slice(extent.first, extent.last)
            seen = states.seen(extent.start, extent.end, like.device)
            sees = seen.any(-1, keepdim=True)
            self._gates[0, 0, rows] = sees.to(like.dtype)
            # As the library has it: a token before the first image sees all images, and all of their padding.
            self._parts.append((rows, states, seen | ~sees))

    @property
    def arguments(self) -> dict[str, Any]:
        """What the library's decoder is called with: keys and values are there already, and whose rows count."""
        return {
            "past_key_values": _Filled(max(self.layers) + 1, self._gates),
            "full_text_row_masked_out_mask": self._gates,
        }

    def attend(self, layer: int, query: torch.Tensor, scaling: float | None) -> torch.Tensor:
        """query [1, heads, rows, head_dim] -> [1, rows, heads, head_dim]."""
        output = torch.zeros_like(query)
        for rows, states, mask in self._parts:
            keys, values = states.layers[layer]
            output[:, :, rows] = attend(query[:, :, rows], keys[None], values[None], mask, False, scaling)
        return output.transpose(1, 2)


class _Filled:
    """The library's cache, as far as its decoder asks one that has the images; those of text are elsewhere."""

    def __init__(self, num_layers: int, something: torch.Tensor) -> None:
        self.layers = [SimpleNamespace(is_initialized=True, keys=something, values=something)] * num_layers

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> KeysValues:
        return keys, values


class Projection:
    """The library's cache, as far as its decoder fills one with images: what it puts in for `layers` stays."""

    layers: tuple[Any, ...] = ()

    def __init__(self, layers: frozenset[int]) -> None:
        self.kept: dict[int, KeysValues] = {}
        self._wanted = layers

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> KeysValues:
        if layer in self._wanted:
            self.kept[layer] = keys[0], values[0]
        return keys, values
