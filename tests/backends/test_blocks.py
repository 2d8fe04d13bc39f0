"""Attention by blocks against the library's, with every kind of chunk: first, later, windowed, longer than a block."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from python_backends.compiled.vectors import HAS_PRODUCTS
from python_backends.torch_engine.blocks import attend_blocks


@pytest.mark.parametrize("window", [None, 1, 5, 40, 100, 1000])
@pytest.mark.parametrize(("start", "rows"), [(0, 2), (0, 64), (0, 150), (7, 65), (100, 3), (33, 130)])
def test_blocks_give_what_one_masked_call_gives(start: int, rows: int, window: int | None) -> None:
    torch.manual_seed(start + rows)
    query, keys, values = torch.randn(rows, 6, 16), torch.randn(2, start + rows, 16), torch.randn(2, start + rows, 24)
    found = attend_blocks(query, keys, values, start, window, 0.3)
    position, key = torch.arange(start, start + rows)[:, None], torch.arange(start + rows)[None]
    seen = (key <= position) & (key > position - (window or start + rows))
    wanted = scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None], attn_mask=seen, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, wanted[0].transpose(0, 1))


@pytest.mark.skipif(not HAS_PRODUCTS, reason="this processor has no products of bfloat16")
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("window", [None, 1, 5, 40, 100, 1000])
@pytest.mark.parametrize(("start", "rows"), [(0, 2), (0, 64), (0, 150), (7, 65), (100, 3), (33, 130)])
def test_compiled_chunks_give_the_same(start: int, rows: int, window: int | None, size: int) -> None:
    torch.manual_seed(start + rows)
    query, places = torch.randn(rows, 6, size).bfloat16(), torch.randn(2, 3, 2, 300, size).bfloat16()
    keys, values = places[:, 1, :, : start + rows]
    found = attend_blocks(query, keys, values, start, window, 0.3)
    wanted = attend_blocks(query.float(), keys.float(), values.float(), start, window, 0.3)
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)
