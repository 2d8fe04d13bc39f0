"""Attention of encoders against the library's own, and who is left to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from python_backends.whole_attention import attend_whole, whole_attention


class Module(nn.Module):
    """What an attention module of the library says of itself."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.num_key_value_groups = 1


def heads(
    number: int, num_heads: int, length: int, dtype: torch.dtype = torch.bfloat16, size: int = 24
) -> torch.Tensor:
    return torch.randn(number, num_heads, length, size, generator=torch.Generator().manual_seed(length)).to(dtype)


def wanted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: object) -> torch.Tensor:
    exact = scaled_dot_product_attention(query.float(), key.float(), value.float(), scale=0.3, **more)  # type: ignore[arg-type]
    return exact.transpose(1, 2)


@pytest.mark.parametrize("length", [1, 7, 128, 300])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("size", [24, 64])
def test_every_token_sees_every_other(number: int, length: int, size: int) -> None:
    # Those of 64 are compiled, where the processor allows it.
    query, key, value = (heads(number, 2, length + more, size=size) for more in (0, 5, 5))
    found, weights = whole_attention(Module(False), query, key, value, None, scaling=0.3)
    assert weights is None and found.shape == (number, length, 2, size)
    torch.testing.assert_close(found.float(), wanted(query, key, value), atol=0.02, rtol=0.02)


def test_the_scale_is_that_of_the_head_size_unless_said() -> None:
    query, key, value = heads(1, 2, 20), heads(1, 2, 20), heads(1, 2, 20)
    found, _ = whole_attention(Module(False), query, key, value, None)
    torch.testing.assert_close(found[0].transpose(0, 1), attend_whole(query[0], key[0], value[0], 24**-0.5))


@pytest.mark.parametrize("causal", [True, None])
def test_a_causal_module_stays_causal(causal: bool | None) -> None:
    query, key, value = heads(1, 2, 40), heads(1, 2, 40), heads(1, 2, 40)
    found, _ = whole_attention(Module(True), query, key, value, None, scaling=0.3, is_causal=causal)
    torch.testing.assert_close(found.float(), wanted(query, key, value, is_causal=True), atol=0.02, rtol=0.02)


def test_a_mask_is_obeyed() -> None:
    query, key, value = heads(1, 2, 9), heads(1, 2, 9), heads(1, 2, 9)
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    mask[..., 4:] = False
    found, _ = whole_attention(Module(False), query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found.float(), wanted(query, key, value, attn_mask=mask), atol=0.02, rtol=0.02)


def test_float32_is_left_to_the_library_to_the_last_bit() -> None:
    query, key, value = (heads(1, 2, 50, torch.float32) for _ in range(3))
    found, _ = whole_attention(Module(False), query, key, value, None, scaling=0.3)
    assert torch.equal(found, scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2))
