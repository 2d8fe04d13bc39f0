"""Attention in encoders, where every token sees every other, plugged into Hugging Face's models.

On CPU in bfloat16 the library's kernel packs all keys anew for every few queries. The compiled attention of a few
rows at a time takes a third of its time. Where the processor or the size of the heads does not allow it, two plain
products of all heads and a compiled softmax between them take somewhat longer, for one more rounding of the scores to
bfloat16, which the library's plain attention has, too. Everywhere else it is the library's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from python_backends.compiled.attention import softmax_seen
from python_backends.compiled.chunks import attend_all
from python_backends.compiled.numbers import COMPILED, as_array
from python_backends.torch_engine.blocks import attention_room, can_attend

WHOLE_ATTENTION = "trimodal_whole"
# Queries at a time: their scores stay in the processor's cache, and the products are still large.
_ROWS = 128


def whole_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query, key, value [n, heads, length, head_dim] -> [n, length, heads, head_dim]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    # A causal module that is given no mask means the causal one.
    if attention_mask is not None or causal or query.shape[1] != key.shape[1] or not _is_compiled(query):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **others
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = [attend_whole(*row, scale).transpose(0, 1) for row in zip(query, key, value, strict=True)]
    return torch.stack(attended), None


def attend_whole(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """query [heads, rows, head_dim], keys, values [heads, length, head_dim] bfloat16 -> [heads, rows, head_dim]."""
    if can_attend(query, values):
        return _attend_compiled(query, keys, values, scale)
    length = keys.shape[1]
    output = query.new_empty(*query.shape[:2], values.shape[-1])
    room = as_array(torch.empty(torch.get_num_threads(), length))
    scaled, keys = query * scale, keys.transpose(1, 2)
    for first in range(0, query.shape[1], _ROWS):
        scores = torch.bmm(scaled[:, first : first + _ROWS], keys)
        # Each row as if it were the last of a text: it sees all.
        softmax_seen(as_array(scores.flatten(0, 1)), 1, length - 1, 0, room)
        output[:, first : first + _ROWS] = torch.bmm(scores, values)
    return output


def _attend_compiled(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """The same, with the rows first in memory."""
    heads, rows, size = query.shape
    output = query.new_empty(rows, heads, size)
    attend_all(
        as_array(query.transpose(0, 1)), as_array(keys), as_array(values), np.float32(scale),
        *attention_room(query, keys), as_array(output),
    )  # fmt: skip
    return output.transpose(0, 1)


def _is_compiled(query: torch.Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.dtype in COMPILED


AttentionInterface.register(WHOLE_ATTENTION, whole_attention)
# Without a function for masks the library would make none.
AttentionMaskInterface.register(WHOLE_ATTENTION, sdpa_mask)
