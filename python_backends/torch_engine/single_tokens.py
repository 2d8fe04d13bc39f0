"""Attention of the sequences that decode, one token each, by a compiled loop over their slots (CPU)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from python_backends.compiled.attention import attend_tokens
from python_backends.compiled.numbers import Array
from python_backends.torch_engine.rows import Extent


class SingleTokens:
    """The first rows of a step, one for each of `decodes`."""

    def __init__(self, decodes: Sequence[Extent]) -> None:
        self._slots = np.array([extent.slot for extent in decodes], np.int64)
        self._positions = np.array([extent.start for extent in decodes], np.int64)
        self._longest = max((extent.end for extent in decodes), default=0)
        self._room = np.empty((0, 0), np.float32)

    def attend(
        self,
        query: Array,
        stored: tuple[Array, Array],
        window: int | None,
        scaling: float | None,
        output: Array,
    ) -> None:
        """query and output [rows, heads, head_dim], of which the first rows are written; `stored` are keys and values
        [slots, kv_heads, max_len, head_dim]."""
        keys, values = stored
        rows, size = len(self._slots), query.shape[-1]
        if not rows:
            return
        per_thread = query.shape[1] // keys.shape[1] * (2 * size + self._longest)
        if self._room.shape[-1] < per_thread:
            self._room = np.empty((torch.get_num_threads(), per_thread), np.float32)
        attend_tokens(
            np.ascontiguousarray(query[:rows]),
            keys,
            values,
            self._slots,
            self._positions,
            window or 0,
            np.float32(size**-0.5 if scaling is None else scaling),
            self._room,
            output[:rows],
        )
