"""The keys and values of all sequences, one contiguous region per slot.

On CPU a region is virtual memory that is committed when it is touched and given back page by page when its content is
forgotten, so every sequence can own a region of the greatest length and attention reads it without gathering.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CacheShape:
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize


class KVCache:
    """keys[layer] and values[layer] of shape [num_slots, num_kv_heads, max_len, head_dim]."""

    def __init__(self, shape: CacheShape, num_slots: int, max_len: int) -> None:
        self._tensor_bytes = shape.num_kv_heads * max_len * shape.head_dim * shape.dtype.itemsize
        self._regions: list[mmap.mmap] = []
        size = (num_slots, shape.num_kv_heads, max_len, shape.head_dim)
        self.keys = [self._allocate(shape, size) for _ in range(shape.num_layers)]
        self.values = [self._allocate(shape, size) for _ in range(shape.num_layers)]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first `num_tokens` tokens of a slot to another."""
        # A plain copy of contiguous memory: far cheaper than computing the prefix again.
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :num_tokens] = tensor[source, :, :num_tokens]

    def forget(self, slot: int) -> None:
        """Give a slot's memory back to the system, as far as whole pages allow; its content is then undefined."""
        # Inner pages only: a page at the border also holds a neighbour's tokens.
        start = -(-slot * self._tensor_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (slot + 1) * self._tensor_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        for region in self._regions:
            if end > start:
                region.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _allocate(self, shape: CacheShape, size: tuple[int, ...]) -> torch.Tensor:
        if shape.device.type != "cpu":
            return torch.empty(size, dtype=shape.dtype, device=shape.device)
        region = mmap.mmap(
            -1, size[0] * self._tensor_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        )
        self._regions.append(region)
        return torch.frombuffer(region, dtype=shape.dtype).view(size)


# The sum of all regions may exceed the machine's memory; only what is touched is committed.
_MAP_NORESERVE = 0x4000
