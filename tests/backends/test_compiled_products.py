"""Weights in 12 bits: every one comes back, and products are those of torch."""

from __future__ import annotations

import pytest
import torch

from python_backends.compiled.numbers import as_array, as_tensor
from python_backends.compiled.twelve_bits import TwelveBits, pack
from python_backends.compiled.vectors import HAS_PRODUCTS, ROW_BLOCKS
from python_backends.torch_engine.kernels import CompactBf16

pytestmark = pytest.mark.skipif(not HAS_PRODUCTS, reason="this processor has no products of bfloat16")

_MOST = ROW_BLOCKS[-1]


def weights(outputs: int, inputs: int) -> torch.Tensor:
    drawn = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))
    return (drawn * 0.02).bfloat16()


def packed(weight: torch.Tensor) -> TwelveBits:
    found = pack(weight)
    assert found is not None
    return found


def read_back(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """The weight, as products with a few rows of the identity at a time."""
    kernel, ones = CompactBf16(packed(weight), None), torch.eye(weight.shape[1]).bfloat16()
    return torch.cat([kernel(some) for some in ones.split(rows)]).T


def assert_close(found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    wanted = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    # One rounding to 8 bits, and sums whose order is free.
    within = wanted.abs() * 2**-8 + 1e-4 * (x.double().abs() @ weight.double().abs().T)
    assert ((found.double() - wanted).abs() <= within).all()


@pytest.mark.parametrize("rows", [1, 5, _MOST, 3 * _MOST, 7 * _MOST])
def test_every_weight_comes_back(rows: int) -> None:
    weight = weights(80, 1032)
    # No exponent of their own, or one that few have, in the first and the last record of several outputs.
    weight[3, 5], weight[4, 7], weight[79] = 0.0, -0.0, 0.0
    weight[0, 0], weight[15, 7], weight[16, 1031], weight[79, 1024] = 1e-20, -1e30, 2e-30, -3e25
    weight[7, 100:120] *= 1e-9
    assert len(packed(weight).apart) >= 24
    assert torch.equal(read_back(weight, rows), weight)


@pytest.mark.parametrize("rows", [*range(1, 2 * _MOST + 2), 72, 73, 515, 516, 517, 1100])
def test_products_are_those_of_torch(rows: int) -> None:
    weight, bias = weights(96, 904), torch.randn(96).bfloat16()
    x = torch.randn(rows, 904, generator=torch.Generator().manual_seed(rows)).bfloat16()
    assert_close(CompactBf16(packed(weight), None)(x), x, weight)
    assert_close(CompactBf16(packed(weight), bias)(x), x, weight, bias)


@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 31, 33, 161])
@pytest.mark.parametrize("rows", [3, 130])
def test_any_number_of_outputs(outputs: int, rows: int) -> None:
    weight, bias = weights(outputs, 64), torch.randn(outputs).bfloat16()
    x = torch.randn(2, rows, 64).bfloat16()
    found = CompactBf16(packed(weight), bias)(x)
    assert found.shape == (2, rows, outputs)
    assert_close(found.flatten(0, 1), x.flatten(0, 1), weight, bias)


@pytest.mark.parametrize("rows", [1, 20, 130])
def test_one_half_is_the_gate_of_the_other(rows: int) -> None:
    weight, bias = weights(192, 256), torch.randn(192).bfloat16()
    kernel, x = CompactBf16(packed(weight), bias), 5 * torch.randn(rows, 256).bfloat16()
    gate, passed = kernel(x).float().chunk(2, dim=-1)
    assert kernel.has_halves
    torch.testing.assert_close(
        as_tensor(kernel.gated(as_array(x))), (torch.nn.functional.silu(gate) * passed).bfloat16(), atol=1e-6, rtol=0.01
    )


def test_no_rows_give_none() -> None:
    assert CompactBf16(packed(weights(32, 64)), None)(torch.empty(0, 64).bfloat16()).shape == (0, 32)


def test_a_weight_takes_twelve_bits() -> None:
    weight = weights(512, 512)
    assert packed(weight).records.nbytes * 8 == 12 * weight.numel()


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(torch.randn(32, 64), id="float32"),
        pytest.param(torch.randn(32, 63).bfloat16(), id="an odd number of inputs"),
        pytest.param((2.0 ** torch.randint(-60, 60, (32, 64)).float()).bfloat16(), id="too many exponents"),
    ],
)
def test_other_weights_are_left_to_others(weight: torch.Tensor) -> None:
    assert pack(weight) is None
