"""Numbers of a tensor inside compiled code: float32, or bfloat16, which numba does not know and which is here the upper
half of a float32 in a uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba.core import types

from python_backends.compiled.team import HAS_TEAM, generated, inlined

Array = npt.NDArray[Any]
# The types of tensors on CPU that the functions of this package take.
COMPILED = frozenset({torch.bfloat16, torch.float32} if HAS_TEAM else ())

_INT16, _INT32, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()


def as_array(tensor: torch.Tensor) -> Array:
    """The same memory, bfloat16 as uint16; the tensor must not need gradients."""
    array: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def as_tensor(array: Array) -> torch.Tensor:
    """The way back."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


@generated
def wide(context: Any, value: Any) -> Any:
    """A number of a tensor as float32."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        if value == types.float32:
            return values[0]
        return builder.bitcast(builder.shl(builder.zext(values[0], _INT32), _INT32(16)), _FLOAT)

    return types.float32(value), generate


@generated
def narrow(context: Any, value: Any, like: Any) -> Any:
    """A float32 as a number of the tensor that `like` is of, rounded to the nearest, of two to the even one."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        if like == types.float32:
            return values[0]
        bits = builder.bitcast(values[0], _INT32)
        odd = builder.and_(builder.lshr(bits, _INT32(16)), _INT32(1))
        rounded = builder.add(bits, builder.add(odd, _INT32(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, _INT32(16)), _INT16)

    return like(types.float32, like), generate


@generated
def bits(context: Any, value: Any) -> Any:
    """The bits of a number of a tensor, as float32, in an int32."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        if value == types.float32:
            return builder.bitcast(values[0], _INT32)
        return builder.shl(builder.zext(values[0], _INT32), _INT32(16))

    return types.int32(value), generate


@generated
def number(context: Any, pattern: Any) -> Any:
    """The float32 that these bits are."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], _FLOAT)

    return types.float32(types.int32), generate


@generated
def order(context: Any, pattern: Any) -> Any:
    """Of the bits of a float32, an int32 that is greater for a greater one, and the way back.

    Vectors can look for the greatest of whole numbers; of floats it would depend on where a NaN stands. NaN without a
    sign comes after infinity.
    """

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        # Of negative floats the bits grow the other way.
        negative = builder.ashr(values[0], _INT32(31))
        return builder.xor(values[0], builder.and_(negative, _INT32(0x7FFFFFFF)))

    return types.int32(types.int32), generate


@generated
def _two_to(context: Any, power: Any) -> Any:
    """2^power for a whole float32 from -126 to 127: the exponent's bits."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        whole = builder.fptosi(values[0], _INT32)
        return builder.bitcast(builder.shl(builder.add(whole, _INT32(127)), _INT32(23)), _FLOAT)

    return types.float32(types.float32), generate


# ln 2 in two parts, so that their products with a power are exact (Cody and Waite, Software Manual, 1980).
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


@generated
def _without_powers(context: Any, x: Any, power: Any) -> Any:
    """x - power * ln 2."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        rest, power = values
        for part in (_LN2_HIGH, _LN2_LOW):
            # Flags of their own: with those of `compiled` the parts of ln 2 are added up to one number again.
            product = builder.fmul(power, _FLOAT(part), flags=["contract"])
            rest = builder.fsub(rest, product, flags=["contract"])
        return rest

    return types.float32(types.float32, types.float32), generate


_LOG2_E = np.float32(1.4426950408889634)
_LEAST, _GREATEST = np.float32(-87.0), np.float32(88.0)
# 1/k! from k = 6 down: the series of exp up to ln(2) / 2 is good for float32's last bits.
_SERIES = tuple(np.float32(1 / factorial) for factorial in (720, 120, 24, 6, 2))
_HALF, _ONE = np.float32(0.5), np.float32(1)


@inlined
def exp(x: np.float32) -> np.float32:
    """e^x, 2.4e-7 from it; unlike the library's it can be computed for 16 numbers at once. x is cut to -87..88."""
    x = min(max(x, _LEAST), _GREATEST)
    power = np.floor(x * _LOG2_E + _HALF)
    rest = _without_powers(x, power)
    a, b, c, d, e = _SERIES
    series = ((((a * rest + b) * rest + c) * rest + d) * rest + e) * rest * rest + rest + _ONE
    result: np.float32 = series * _two_to(power)
    return result
