"""The keys and values of all sequences, one contiguous region per slot.

On CPU a region is virtual memory that is committed when it is touched and given back page by page when its content is
forgotten, so every sequence can own a region of the greatest length and attention reads it without gathering.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from functools import cached_property

import torch

from python_backends.compiled.numbers import Array, as_array


@dataclass(frozen=True)
class LayerShape:
    """Layers may differ, and keys may be wider than values (DeepSeek); none has keys that attends to images only."""

    num_kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True)
class CacheShape:
    layers: tuple[LayerShape, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        values = sum(layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in self.layers)
        return values * self.dtype.itemsize


class KVCache:
    """keys[layer] and values[layer] of shape [num_slots, num_kv_heads, max_len, key_dim or value_dim]."""

    def __init__(self, shape: CacheShape, num_slots: int, max_len: int) -> None:
        # Each region with the bytes of one slot in it.
        self._regions: list[tuple[mmap.mmap, int]] = []
        self.keys, self.values = [], []
        for layer in shape.layers:
            size = (num_slots, layer.num_kv_heads, max_len)
            self.keys.append(self._allocate(shape, (*size, layer.key_dim)))
            self.values.append(self._allocate(shape, (*size, layer.value_dim)))

    @cached_property
    def arrays(self) -> list[tuple[Array, Array]]:
        """The keys and values of each layer, for compiled functions."""
        return [(as_array(keys), as_array(values)) for keys, values in zip(self.keys, self.values, strict=True)]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first `num_tokens` tokens of a slot to another."""
        # A plain copy of contiguous memory: far cheaper than computing the prefix again.
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :num_tokens] = tensor[source, :, :num_tokens]

    def forget(self, slot: int) -> None:
        """Give a slot's memory back to the system, as far as whole pages allow; its content is zeros afterwards.

        Masked keys take part in sums, with a weight of zero: what is not finite there would still spoil them.
        """
        for region, slot_bytes in self._regions:
            first, last = slot * slot_bytes, (slot + 1) * slot_bytes
            # Inner pages only: a page at the border also holds a neighbour's tokens.
            start = min(last, -(-first // mmap.PAGESIZE) * mmap.PAGESIZE)
            end = max(start, last // mmap.PAGESIZE * mmap.PAGESIZE)
            if end > start:
                region.madvise(mmap.MADV_DONTNEED, start, end - start)
            region[first:start], region[end:last] = bytes(start - first), bytes(last - end)
        for tensor in () if self._regions else (*self.keys, *self.values):
            tensor[slot] = 0

    def _allocate(self, shape: CacheShape, size: tuple[int, ...]) -> torch.Tensor:
        if shape.device.type != "cpu":
            return torch.zeros(size, dtype=shape.dtype, device=shape.device)
        slot_bytes = math.prod(size[1:]) * shape.dtype.itemsize
        if not slot_bytes:
            return torch.zeros(size, dtype=shape.dtype)
        region = mmap.mmap(-1, size[0] * slot_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._regions.append((region, slot_bytes))
        return torch.frombuffer(region, dtype=shape.dtype).view(size)


# The sum of all regions may exceed the machine's memory; only what is touched is committed.
_MAP_NORESERVE = 0x4000
