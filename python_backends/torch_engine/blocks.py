"""Attention of a chunk of a prompt in bfloat16 on CPU, by matrix products of a few rows at a time.

PyTorch's own kernel packs the keys anew for every query head. Here the heads that share keys are the rows of one
matrix, and blocks are small enough that their scores stay in the processor's cache: about twice as fast, for one more
rounding of the scores to bfloat16, which the library's plain attention has, too.
"""

from __future__ import annotations

import numpy as np
import torch

from python_backends.compiled.attention import softmax_seen
from python_backends.compiled.chunks import MOST_ROWS, attend_chunk, padded
from python_backends.compiled.numbers import Array, as_array
from python_backends.compiled.vectors import HAS_PRODUCTS

# Of 16 to 256 rows the quickest, for 256 to 1,024 tokens.
_ROWS = 64
# Of what the number of numbers in a head must be a multiple to be compiled.
_SIZES = 32


def attend_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """query [rows, heads, head_dim], of tokens from `start` on; keys and values [kv_heads, start + rows, head_dim].

    Returns [rows, heads, value_dim]. A token sees itself and what is before it, in a window of w only w - 1 tokens.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = query.new_empty(*query.shape[:2], values.shape[-1])
    if can_attend(query, values):
        attend_chunk(
            as_array(query), as_array(keys), as_array(values), start, window or 0, np.float32(scale),
            *attention_room(query, keys), as_array(output),
        )  # fmt: skip
        return output
    scaled = query * scale
    room = as_array(torch.empty(torch.get_num_threads(), keys.shape[1]))
    for first in range(0, len(query), _ROWS):
        rows = slice(first, min(first + _ROWS, len(query)))
        seen = slice(0 if window is None else max(0, start + first - window + 1), start + rows.stop)
        position = start + first - seen.start
        output[rows] = _attend(scaled[rows], keys[:, seen], values[:, seen], position, window or 0, room)
    return output


def can_attend(query: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether the compiled attention takes such tensors."""
    size = query.shape[-1]
    return HAS_PRODUCTS and query.dtype == torch.bfloat16 and size == values.shape[-1] and size % _SIZES == 0


def attention_room(query: torch.Tensor, keys: torch.Tensor) -> tuple[Array, Array, Array]:
    """What the compiled attention to keys [kv_heads, length, size] works in: packed, scores and weights."""
    kv_heads, length, size = keys.shape
    each = torch.get_num_threads(), MOST_ROWS * padded(length)
    packed = query.new_empty(2, kv_heads, padded(length) * size)
    return as_array(packed), as_array(torch.empty(each)), as_array(query.new_empty(each))


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, window: int, room: Array
) -> torch.Tensor:
    """One block, whose first row is the token at `position` of the keys [kv_heads, length, head_dim]."""
    rows, heads, head_dim = query.shape
    grouped = query.transpose(0, 1).reshape(len(keys), -1, head_dim)
    scores = torch.bmm(grouped, keys.transpose(1, 2))
    softmax_seen(as_array(scores.flatten(0, 1)), rows, position, window, room)
    attended = torch.bmm(scores, values)
    return attended.view(heads, rows, -1).transpose(0, 1)
