"""Matrix multiplications with re-packed weights: our own for bfloat16, else PyTorch's (oneDNN and ATen), chosen by
`quantization`.

Each kernel takes a weight [out, in] and an optional bias [out], keeps what it needs in its own layout, and maps
x [..., in] to [..., out] in x's type. Decoding reads every weight once per step, so bytes per weight are its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from python_backends.compiled.numbers import Array, as_array, as_tensor
from python_backends.compiled.products import multiply
from python_backends.compiled.twelve_bits import TwelveBits, pack
from python_backends.compiled.vectors import RECORD_OUTPUTS

_PACK_BF16 = torch.ops.mkldnn._reorder_linear_weight
_LINEAR_BF16 = torch.ops.mkldnn._linear_pointwise.default
_PACK_INT8 = torch.ops.onednn.qlinear_prepack
_LINEAR_INT8 = torch.ops.onednn.qlinear_pointwise.default
# Of more rows oneDNN's product is the quicker one, by less than a tenth.
_FEW_ROWS = 48
# Unsigned activations: oneDNN has quick kernels for those only.
_ZERO_POINT = 128
# How many weights may share a scale and a zero in the ATen kernel; the least is the most exact.
INT4_GROUPS = (32, 64, 128, 256)


# x [rows, in] -> [rows, out].
Product = Callable[[Array], Array]


class Kernel(Protocol):
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class CompactBf16:
    """The plain product, whose weights take 12 bits in memory and are bfloat16 again in the processor."""

    def __init__(self, weight: TwelveBits, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = as_array(torch.empty(0, dtype=torch.bfloat16) if bias is None else bias.detach())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product = self.product(as_array(x.reshape(-1, x.shape[-1])))
        return as_tensor(product).view(*x.shape[:-1], self._weight.outputs)

    def product(self, x: Array) -> Array:
        """x [rows, in] -> [rows, out]."""
        return self._multiply(x, self._weight.outputs, False)

    def gated(self, x: Array) -> Array:
        """Of the product's halves, silu of the first times the second: x [rows, in] -> [rows, out / 2]."""
        return self._multiply(x, self._weight.outputs // 2, True)

    @property
    def has_halves(self) -> bool:
        """Whether it may be `gated`."""
        return self._weight.outputs == len(self._weight.records) * RECORD_OUTPUTS

    def _multiply(self, x: Array, outputs: int, is_gated: bool) -> Array:
        weight, output = self._weight, np.empty((len(x), outputs), np.uint16)
        multiply(x, weight.records, weight.exponents, weight.apart, weight.starts, self._bias, is_gated, output)
        return output


def product(kernel: Kernel) -> Product:
    """What a kernel, or a layer, does, on arrays."""
    return kernel.product if isinstance(kernel, CompactBf16) else lambda x: as_array(kernel(as_tensor(x)))


class PackedBf16:
    """The plain product; oneDNN's blocked layout streams about twice as fast as rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self._weight, self._bias = _PACK_BF16(weight.contiguous(), rows), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _as_tensor(_LINEAR_BF16(x, self._weight, self._bias, "none", [], ""))


class Int8:
    """Weights int8 with a scale per output, activations int8 with a scale per row: integer products (VNNI)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        rounded, self._scale = int8_weight(weight)
        self._weight = _PACK_INT8(rounded, None)
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        # A row of zeros must not become a division by zero.
        scale = flat.abs().amax(-1, keepdim=True).float().clamp_min_(1e-8).div_(127)
        # Adding a half and cutting off rounds, for nothing here is negative.
        rounded = torch.div(flat, scale).add_(_ZERO_POINT + 0.5).to(torch.uint8)
        product = _LINEAR_INT8(
            rounded, 1.0, _ZERO_POINT, self._weight, self._scale, self._zero,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        product = product.mul_(scale).to(x.dtype).view(*x.shape[:-1], -1)
        return _as_tensor(product if self._bias is None else product.add_(self._bias))


class Int8WeightOnly:
    """Weights int8 with a scale per output; activations and products as they were."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self._weight, scale = int8_weight(weight)
        self._scale, self._bias = scale.to(weight.dtype), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self._weight, self._scale)
        product = product.view(*x.shape[:-1], -1)
        return product if self._bias is None else product.add_(self._bias)


class Int4WeightOnly:
    """Weights int4, a scale and a zero for every 32 of them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self._pack(*int4_weight(weight, INT4_GROUPS[0]), bias)

    def _pack(self, levels: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        # The second argument belongs to the CUDA layout and is not used here.
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        self._scales, self._bias, self._group = scales, bias, levels.shape[1] // len(scales)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        product = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self._weight, self._group, self._scales)
        product = product.view(*x.shape[:-1], -1)
        return _as_tensor(product if self._bias is None else product.add_(self._bias))


class Int4Levels(Int4WeightOnly):
    """Weights that the checkpoint has in int4: no rounding. levels [out, in] in 0..15, scales as from `int4_weight`."""

    def __init__(self, levels: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._pack(levels.int(), scales, bias)


def bf16(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Kernel:
    """The quicker one of two for so many rows."""
    packed = pack(weight) if rows <= _FEW_ROWS else None
    return PackedBf16(weight, bias, rows) if packed is None else CompactBf16(packed, bias)


# By quantization; `rows` is the number of rows that x has most often.
KERNELS: dict[str, Callable[[torch.Tensor, torch.Tensor | None, int], Kernel]] = {
    "none": bf16,
    "int8": Int8,
    "int8_weight_only": Int8WeightOnly,
    "int4_weight_only": Int4WeightOnly,
}


def int8_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric rounding: weight [out, in] -> int8 [out, in], scale [out] float32, weight ~ int8 * scale."""
    scale = weight.abs().amax(1).float().clamp_min(1e-8) / 127
    return (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def int4_weight(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounding to 16 levels between the least and the greatest of each group along the inputs.

    weight [out, in] -> int32 [out, in] in 0..15, and [in / group, out, 2] of scale and middle in the weight's type:
    weight ~ (int4 - 8) * scale + middle.
    """
    groups = weight.float().view(len(weight), -1, group)
    least, greatest = groups.aminmax(dim=-1, keepdim=True)
    scale = ((greatest - least) / 15).clamp_min_(1e-8)
    rounded = ((groups - least) / scale).round_().clamp_(0, 15).to(torch.int32).view(weight.shape)
    scales = torch.cat([scale, least + 8 * scale], dim=-1).transpose(0, 1)
    return rounded, scales.to(weight.dtype).contiguous()


def _as_tensor(value: object) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value
