"""Attention over the slots of the KV cache, plugged into Hugging Face models by their attention interface.

A step computes the chunks of several sequences in one row of tokens. Each layer calls `slot_attention`, which stores
the new keys and values in the sequences' slots and lets every token attend to its own sequence only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from python_backends.compiled.numbers import COMPILED, Array, as_array, as_tensor
from python_backends.torch_engine.blocks import attend_blocks
from python_backends.torch_engine.cache import KVCache
from python_backends.torch_engine.rows import Extent, Rows, Run
from python_backends.torch_engine.scores import Scores
from python_backends.torch_engine.single_tokens import SingleTokens

if TYPE_CHECKING:
    from python_backends.torch_engine.cross_attention import CrossAttention

ATTENTION_NAME = "trimodal_slots"
Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, bool, float | None],
    torch.Tensor,
]


@dataclass(frozen=True)
class Layer:
    """What one layer asks of attention: its index, the scale of scores, and how many tokens it sees (None: all)."""

    index: int
    scaling: float | None
    window: int | None
    attend: Attend


class StepContext:
    """Travels through the model's keyword arguments to every attention layer; what layers share is made once.

    `mutual` are, by slot, the ranges of tokens in a chunk that see each other in both directions; `images` is there if
    a sequence of the step has images beside its prompt.
    """

    def __init__(
        self,
        cache: KVCache,
        rows: Rows,
        dtype: torch.dtype,
        device: torch.device,
        mutual: Mapping[int, Ordered[range]],
        images: CrossAttention | None = None,
    ) -> None:
        self.cache, self.rows, self.mutual, self.images = cache, rows, mutual, images
        # Where the new keys and values of the sequences that decode go.
        self.slots = torch.tensor([extent.slot for extent in rows.decodes], device=device)
        self.positions = torch.tensor([extent.start for extent in rows.decodes], device=device)
        self.single_tokens = SingleTokens(rows.decodes) if dtype in COMPILED and device.type == "cpu" else None
        self._dtype, self._device = dtype, device
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def run_mask(self, run: Run, window: int | None) -> torch.Tensor | None:
        """[slots, 1, 1, run.length] to add to the scores of a run; None when all its tokens see all of it."""
        key = (run.first, window)
        if key not in self._masks:
            ends = torch.tensor(run.ends, device=self._device)[:, None]
            seen = sees(ends - 1, torch.arange(run.length, device=self._device), window)
            self._masks[key] = None if seen.all() else self._to_add(seen)
        mask = self._masks[key]
        return None if mask is None else mask[:, None, None]

    def chunk_mask(self, extent: Extent, window: int | None) -> torch.Tensor | None:
        """[rows, extent.end] to add to the scores of a chunk; None when plain causal attention is meant."""
        key = (extent.first, window)
        mutual = self.mutual.get(extent.slot, ())
        # The library's own causal flag aligns its mask with the first row, which is right for a first chunk only.
        if extent.start == 0 and (window is None or extent.end <= window) and not mutual:
            return None
        if key not in self._masks:
            positions = torch.arange(extent.start, extent.end, device=self._device)[:, None]
            keys = torch.arange(extent.end, device=self._device)
            self._masks[key] = self._to_add(sees(positions, keys, window, mutual))
        return self._masks[key]

    def _to_add(self, seen: torch.Tensor) -> torch.Tensor:
        """Made once per step: the library would turn a boolean mask into this in every layer."""
        return torch.zeros(seen.shape, dtype=self._dtype, device=self._device).masked_fill_(~seen, -torch.inf)


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    step: StepContext,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, head_dim], key and value [1, kv_heads, rows, head_dim] -> [1, rows, heads, head_dim].

    What `others` may hold is checked once, by structure.py.
    """
    if step.images and module.layer_idx in step.images.layers:
        return step.images.attend(module.layer_idx, query, scaling), None  # type: ignore[arg-type]
    how = attend if softcap is None and s_aux is None else Scores(softcap, s_aux).attend
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    layer = Layer(module.layer_idx, scaling, sliding_window, how)  # type: ignore[arg-type]
    return attend_rows(layer, rows[0], rows[1], rows[2], step)[None], None


def attend_rows(
    layer: Layer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: StepContext
) -> torch.Tensor:
    """query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim] -> [rows, heads, value_dim]."""
    keys, values = step.cache.keys[layer.index], step.cache.values[layer.index]
    _store(keys, key, step)
    _store(values, value, step)
    return attend_stored(layer, query, step)


def attend_stored(layer: Layer, query: torch.Tensor, step: StepContext) -> torch.Tensor:
    """query [rows, heads, head_dim], whose keys and values are in the cache -> [rows, heads, value_dim]."""
    keys, values = step.cache.keys[layer.index], step.cache.values[layer.index]
    # Rows that only pad the step belong to no sequence; zeros keep them finite.
    output = query.new_zeros(*query.shape[:2], values.shape[-1])
    if step.single_tokens and layer.attend is attend and query.shape == output.shape:
        stored = step.cache.arrays[layer.index]
        step.single_tokens.attend(as_array(query), stored, layer.window, layer.scaling, as_array(output))
    else:
        for run in step.rows.runs:
            mask = step.run_mask(run, layer.window)
            output[run.first : run.last] = _attend_run(query[run.first : run.last], keys, values, run, mask, layer)
    for extent in step.rows.chunks:
        part = query[extent.first : extent.last]
        output[extent.first : extent.last] = _attend_chunk(part, keys, values, extent, step, layer)
    return output


def attend_array(layer: Layer, query: Array, step: StepContext) -> Array:
    """As `attend_stored`, of a layer that does nothing but scale its scores, on CPU in a compiled type."""
    output = np.empty_like(query)
    output[len(query) - step.rows.num_padding :] = 0
    assert step.single_tokens is not None
    step.single_tokens.attend(query, step.cache.arrays[layer.index], layer.window, layer.scaling, output)
    for extent in step.rows.chunks:
        part = as_tensor(query[extent.first : extent.last])
        keys, values = step.cache.keys[layer.index], step.cache.values[layer.index]
        output[extent.first : extent.last] = as_array(_attend_chunk(part, keys, values, extent, step, layer))
    return output


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """query [n, heads, rows, head_dim], keys, values [n, kv_heads, length, head_dim] -> [n, heads, rows, head_dim]."""
    shared = query.shape[1] != keys.shape[1]
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_causal, scale=scaling, enable_gqa=shared
    )


def _store(cache: torch.Tensor, new: torch.Tensor, step: StepContext) -> None:
    """cache [slots, kv_heads, max_len, head_dim], new [rows, kv_heads, head_dim]: each row to its slot and position."""
    if decodes := len(step.rows.decodes):
        cache[step.slots, :, step.positions] = new[:decodes]
    for extent in step.rows.chunks:
        cache[extent.slot, :, extent.start : extent.end] = new[extent.first : extent.last].transpose(0, 1)


def _attend_run(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    run: Run,
    mask: torch.Tensor | None,
    layer: Layer,
) -> torch.Tensor:
    """query [rows, heads, head_dim], one token of each sequence of the run -> [rows, heads, value_dim].

    The heads that share a key head are laid out as if they were tokens: each key is then read once, not once per head.
    """
    rows, heads, head_dim = query.shape
    grouped = query.reshape(rows, keys.shape[1], -1, head_dim)
    if run.has_gaps:
        # Slots between those of the run take part for nothing; that is cheaper than one call per sequence.
        spread = grouped.new_zeros(run.num_slots, *grouped.shape[1:])
        spread[run.members] = grouped
        grouped = spread
    attended = layer.attend(
        grouped,
        keys[run.first_slot : run.last_slot, :, : run.length],
        values[run.first_slot : run.last_slot, :, : run.length],
        mask,
        False,
        layer.scaling,
    )
    if run.has_gaps:
        attended = attended[run.members]
    return attended.reshape(rows, heads, -1)


def _attend_chunk(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    extent: Extent,
    step: StepContext,
    layer: Layer,
) -> torch.Tensor:
    """query [rows, heads, head_dim] -> [rows, heads, value_dim]."""
    keys, values = keys[extent.slot, :, : extent.end], values[extent.slot, :, : extent.end]
    is_causal = extent.slot not in step.mutual
    if step.single_tokens and layer.attend is attend and query.dtype == torch.bfloat16 and is_causal:
        return attend_blocks(query, keys, values, extent.start, layer.window, layer.scaling)
    mask = step.chunk_mask(extent, layer.window)
    attended = layer.attend(query.transpose(0, 1)[None], keys[None], values[None], mask, mask is None, layer.scaling)
    return attended[0].transpose(0, 1)


def sees(positions: torch.Tensor, keys: torch.Tensor, window: int | None, mutual: Ordered[range] = ()) -> torch.Tensor:
    """positions [rows, 1], keys [length] -> [rows, length] bool: which tokens see which keys, by where both are.

    A token sees itself and what is before it, in a window of w w - 1; what is after it inside a range of `mutual` only.
    """
    seen = keys <= positions
    for run in mutual:
        seen = seen | _inside(positions, run) & _inside(keys, run)
    return seen if window is None else seen & (keys > positions - window)


def _inside(positions: torch.Tensor, run: range) -> torch.Tensor:
    return (positions >= run.start) & (positions < run.stop)


AttentionInterface.register(ATTENTION_NAME, slot_attention)
