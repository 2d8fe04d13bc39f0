"""Attention over the slots of the KV cache, plugged into Hugging Face models by their attention interface.

A step computes the chunks of several sequences in one row of tokens. Each layer calls `slot_attention`, which stores
the new keys and values in the sequences' slots and lets every chunk attend to its own sequence only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from python_backends.errors import Unsupported
from python_backends.torch_engine.cache import KVCache

ATTENTION_NAME = "trimodal_slots"


@dataclass(frozen=True)
class Extent:
    """A chunk: rows `first` to `last` of the step are the tokens `start` to `end` of the sequence in `slot`."""

    slot: int
    first: int
    last: int
    start: int
    end: int


@dataclass(frozen=True)
class StepContext:
    """Travels through the model's keyword arguments to every attention layer."""

    cache: KVCache
    extents: list[Extent]


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    step: StepContext,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, head_dim], key and value [1, kv_heads, rows, head_dim] -> [1, rows, heads, head_dim]."""
    _refuse_what_changes_scores(others)
    keys, values = step.cache.keys[module.layer_idx], step.cache.values[module.layer_idx]  # type: ignore[index]
    output = torch.empty_like(query)
    # Each sequence attends alone: lengths differ, and its region of the cache is contiguous already.
    for extent in step.extents:
        rows = slice(extent.first, extent.last)
        keys[extent.slot, :, extent.start : extent.end] = key[0, :, rows]
        values[extent.slot, :, extent.start : extent.end] = value[0, :, rows]
        output[:, :, rows] = _attend(query[:, :, rows], keys, values, extent, scaling, sliding_window)
    return output.transpose(1, 2), None


def _refuse_what_changes_scores(others: dict[str, Any]) -> None:
    """Some families hand over more than query, key and value; to ignore it would give wrong text and no error."""
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise Unsupported(f"this family's attention needs {name}, which the torch engine does not have")


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    extent: Extent,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    key = keys[extent.slot : extent.slot + 1, :, : extent.end]
    value = values[extent.slot : extent.slot + 1, :, : extent.end]
    # Without a mask the library picks its flash kernel; the first chunk and a lone decode need none.
    windowed = window is not None and extent.end > window
    mask = _causal_mask(extent, window, query.device) if windowed or (extent.start and query.shape[2] > 1) else None
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and query.shape[2] > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _causal_mask(extent: Extent, window: int | None, device: torch.device) -> torch.Tensor:
    """[rows, extent.end] bool: which earlier tokens a token may see; a window of w sees itself and w - 1 before it."""
    # The library's own causal flag aligns the mask with the first row, which is wrong for a later chunk.
    position = torch.arange(extent.start, extent.end, device=device)[:, None]
    earlier = torch.arange(extent.end, device=device)[None, :]
    seen = earlier <= position
    return seen if window is None else seen & (earlier > position - window)


AttentionInterface.register(ATTENTION_NAME, slot_attention)
