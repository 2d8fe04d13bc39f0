"""Attention of a chunk in which tokens of an image see each other, against one call with the mask written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from python_backends.torch_engine.attention import Layer, StepContext, attend, attend_rows
from python_backends.torch_engine.cache import CacheShape, KVCache, LayerShape
from python_backends.torch_engine.rows import Rows

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("start", "num_rows", "mutual"),
    [(0, 6, [range(6)]), (0, 9, [range(2, 5), range(6, 9)]), (4, 8, [range(4, 10)]), (3, 4, [])],
)
def test_tokens_of_an_image_see_each_other(
    start: int, num_rows: int, mutual: list[range], window: int | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(start + num_rows)
    end = start + num_rows
    query, keys, values = (torch.randn(length, heads, 8) for length, heads in ((num_rows, 4), (end, 2), (end, 2)))
    cache = KVCache(CacheShape((LayerShape(2, 8, 8),), dtype, CPU), 1, 16)
    cache.keys[0][0, :, :start] = keys[:start].transpose(0, 1)
    cache.values[0][0, :, :start] = values[:start].transpose(0, 1)
    step = StepContext(cache, Rows([(0, start, end)]), dtype, CPU, {0: mutual} if mutual else {})
    new = (tensor.to(dtype) for tensor in (query, keys[start:], values[start:]))
    found = attend_rows(Layer(0, 0.7, window, attend), *new, step)
    seen = torch.tensor([[_sees(token, key, window, mutual) for key in range(end)] for token in range(start, end)])
    heads_first = [tensor.transpose(0, 1)[None] for tensor in (query, keys, values)]
    wanted = scaled_dot_product_attention(*heads_first, attn_mask=seen, scale=0.7, enable_gqa=True)
    error = float((found.float() - wanted[0].transpose(0, 1)).abs().max())
    assert error < (0.05 if dtype == torch.bfloat16 else 1e-5)


def _sees(token: int, key: int, window: int | None, mutual: list[range]) -> bool:
    together = any(token in run and key in run for run in mutual)
    return (key <= token or together) and (window is None or key > token - window)
