"""What lies between the matrix products of a layer, against plain torch, in both types, on one thread and on all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu as exact_gelu
from torch.nn.functional import layer_norm, rms_norm, silu

from python_backends.compiled.layers import add_layer_norm, add_norm, gelu, silu_mul
from python_backends.compiled.numbers import COMPILED, as_array

DTYPES = sorted(COMPILED, key=str)
# What the order of sums costs, and one step of bfloat16, where a sum may fall to the other side.
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 2**-7}
# The last ones are enough numbers for all threads.
SIZES = [(1, 7), (3, 64), (17, 80), (130, 1100)]
EPS = 1e-6


def random(*size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).to(dtype)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, atol: float = 0.0) -> None:
    """`wanted` float32."""
    torch.testing.assert_close(found.float(), wanted, rtol=TOLERANCES[found.dtype], atol=atol)


def normed(hidden: torch.Tensor, more: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`hidden` is added to."""
    output = torch.full_like(hidden, torch.nan)
    add_norm(as_array(hidden), as_array(more), as_array(weight), np.float32(EPS), as_array(output))
    return output


def multiplied(gate_up: torch.Tensor) -> torch.Tensor:
    output = torch.full((len(gate_up), gate_up.shape[1] // 2), torch.nan, dtype=gate_up.dtype)
    silu_mul(as_array(gate_up), as_array(output))
    return output


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_and_its_norm(size: tuple[int, int], dtype: torch.dtype) -> None:
    hidden, more = random(*size, dtype=dtype), random(size[1], size[0], dtype=dtype).T.contiguous()
    weight = random(size[1], dtype=dtype)
    total = hidden + more
    output = normed(hidden, more, weight)
    # Rounded once, as torch does it, so not one bit may differ.
    assert torch.equal(hidden, total)
    assert_close(output, rms_norm(total.float(), (size[1],), weight.float(), EPS))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_norm_without_a_residual(dtype: torch.dtype) -> None:
    more, weight = random(5, 33, dtype=dtype), random(33, dtype=dtype)
    hidden = torch.zeros_like(more)
    assert_close(normed(hidden, more, weight), rms_norm(more.float(), (33,), weight.float(), EPS))
    assert torch.equal(hidden, more)
    again = normed(hidden, torch.zeros_like(more), weight)
    assert torch.equal(hidden, more)
    assert_close(again, rms_norm(more.float(), (33,), weight.float(), EPS))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_zeros_has_a_norm_and_a_row_without_numbers_spoils_no_other(dtype: torch.dtype) -> None:
    hidden, weight = random(3, 16, dtype=dtype), torch.ones(16, dtype=dtype)
    hidden[0], hidden[2, 5] = 0, torch.nan
    wanted = rms_norm(hidden[1].float(), (16,), None, EPS)
    output = normed(hidden, torch.zeros_like(hidden), weight)
    assert not output[0].any() and output[2].isnan().all()
    assert_close(output[1], wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_a_gate_and_what_it_lets_through(size: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = 4 * random(size[0], 2 * size[1], dtype=dtype)
    gate, up = gate_up.float().chunk(2, dim=1)
    assert_close(multiplied(gate_up), silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates_that_are_wide_open_or_shut(dtype: torch.dtype) -> None:
    gates = torch.tensor([-1e30, -1000.0, -88.0, -87.0, -30.0, -0.0, 0.0, 30.0, 87.0, 1000.0, 1e30], dtype=dtype)
    found = multiplied(torch.cat([gates, torch.full_like(gates, 0.5)])[None])[0]
    # e^88 stands for everything beyond it.
    assert_close(found[1:], silu(gates[1:].float()) / 2, atol=1e-34)
    assert abs(found[0]) < 1e-8
    nothing = torch.full((1, 8), torch.nan, dtype=dtype)
    assert multiplied(nothing).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_and_its_layer_norm(size: tuple[int, int], dtype: torch.dtype) -> None:
    hidden, more = random(*size, dtype=dtype), random(size[1], size[0], dtype=dtype).T.contiguous()
    # A mean far from zero, which must not cost the precision of what is around it.
    more += 40
    weight, bias = random(size[1], dtype=dtype), random(size[1] + 1, dtype=dtype)[1:].contiguous()
    total, output = hidden + more, torch.full_like(hidden, torch.nan)
    add_layer_norm(*map(as_array, (hidden, more, weight, bias)), np.float32(EPS), as_array(output))
    assert torch.equal(hidden, total)
    wanted = layer_norm(total.float(), (size[1],), weight.float(), bias.float(), EPS)
    assert_close(output, wanted, atol=1e-4 if dtype == torch.float32 else 2**-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_gelu(size: tuple[int, int], dtype: torch.dtype) -> None:
    numbers = 3 * random(*size, dtype=dtype)
    numbers[0, :2] = torch.tensor([-30.0, 30.0])
    wanted = exact_gelu(numbers.float())
    gelu(as_array(numbers))
    assert_close(numbers, wanted, atol=3e-6)
