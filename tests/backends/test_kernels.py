"""The re-packed linear layers against plain ones: same numbers for bf16, known errors for fewer bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from python_backends.compiled.vectors import HAS_PRODUCTS
from python_backends.torch_engine.kernels import KERNELS, int4_weight, int8_weight
from python_backends.torch_engine.linear import PackedLinear, Part, pack_linears

# Relative error of a product with random weights, about twice what the rounding costs.
_ERRORS = {"none": 0.005, "int8": 0.025, "int8_weight_only": 0.02, "int4_weight_only": 0.15}


class Attention(nn.Module):
    """Siblings as Hugging Face names and calls them."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(64, 96, bias=bias), nn.Linear(64, 32, bias=bias)
        self.v_proj, self.o_proj = nn.Linear(64, 32, bias=bias), nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.q_proj(x) * torch.cat([self.k_proj(x), self.v_proj(x), self.k_proj(x)], dim=-1)
        return torch.as_tensor(self.o_proj(query))


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@torch.inference_mode()
@pytest.mark.parametrize("quantization", KERNELS)
@pytest.mark.parametrize("rows", [1, 4, 7, 33])
def test_a_packed_layer_multiplies_as_the_plain_one(quantization: str, rows: int) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(128, 64).bfloat16()
    packed = KERNELS[quantization](plain.weight.detach(), plain.bias.detach(), 4)
    x = torch.randn(1, rows, 128).bfloat16()
    found = packed(x)
    assert found.shape == (1, rows, 64) and found.dtype == torch.bfloat16
    assert relative_error(found, plain.float()(x.float())) < _ERRORS[quantization]


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_siblings_become_one_matrix_and_give_what_they_gave(bias: bool) -> None:
    torch.manual_seed(0)
    module = Attention(bias).bfloat16()
    x = torch.randn(1, 5, 64).bfloat16()
    wanted = module(x)
    assert pack_linears(module, "none") == (1 if HAS_PRODUCTS else 4)
    assert isinstance(module.q_proj, Part) and isinstance(module.o_proj, PackedLinear)
    torch.testing.assert_close(module(x), wanted, atol=0.02, rtol=0.02)
    # A second input of the same shape must not meet the first one's output.
    assert relative_error(module(2 * x), wanted) > 0.5


def test_float32_stays_as_it_is_without_quantization() -> None:
    module = Attention(True)
    assert pack_linears(module, "none") == 1
    assert type(module.q_proj) is nn.Linear


def test_a_layer_that_no_kernel_can_cut_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(24, 8))
    pack_linears(module, "int4_weight_only")
    assert type(module[0]) is nn.Linear


@torch.inference_mode()
def test_int8_of_a_row_of_zeros_is_zero() -> None:
    packed = KERNELS["int8"](torch.randn(16, 32).bfloat16(), None, 4)
    assert packed(torch.zeros(1, 4, 32).bfloat16()).abs().max() == 0


def test_rounding_is_within_half_a_step() -> None:
    weight = torch.randn(16, 64)
    rounded, scale = int8_weight(weight)
    assert ((rounded * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-6).all()
    levels, scales = int4_weight(weight, 32)
    step, middle = (part.transpose(0, 1)[:, :, None] for part in scales.unbind(-1))
    restored = (levels.view(16, 2, 32) - 8) * step + middle
    assert ((restored.view(16, 64) - weight).abs() <= step.amax() / 2 + 1e-6).all()
