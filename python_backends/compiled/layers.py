"""What lies between the matrix products of a layer. Arrays are of float32 or bfloat16, see `numbers.py`.

Loops run from 0 over slices: an index that is a sum might be negative, which Python allows, and vectors do not.
"""

from __future__ import annotations

import numpy as np

from python_backends.compiled.numbers import Array, exp, narrow, wide
from python_backends.compiled.team import ALONE, FIRST, compiled, inlined, run_team, share

# Fewer numbers than this are done before a second thread has begun.
_SMALL = 65536
_ZERO, _ONE = np.float32(0), np.float32(1)
_HALF, _ROOT_HALF = np.float32(0.5), np.float32(0.5**0.5)
# Of the complement of the error function (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
_ERF_PLACE = np.float32(0.3275911)
_ERF = tuple(np.float32(each) for each in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))


@compiled
def add_norm(hidden: Array, more: Array, weight: Array, eps: np.float32, output: Array) -> None:
    """hidden += more, output = hidden * weight / sqrt(mean(hidden^2) + eps) (arXiv 1910.07467); all [rows, hidden]."""
    if hidden.size < _SMALL:
        _add_norm(FIRST, ALONE, hidden, more, weight, eps, output)
    else:
        run_team(_add_norm, (hidden, more, weight, eps, output))


@compiled
def _add_norm(
    thread: int, threads: int, hidden: Array, more: Array, weight: Array, eps: np.float32, output: Array
) -> None:
    size = hidden.shape[1]
    first, last = share(thread, threads, len(hidden))
    for row in range(first, last):
        kept, added, normed = hidden[row], more[row], output[row]
        squares = _ZERO
        for i in range(size):
            # Rounded as it is kept, so that the norm is that of what the next layer sees.
            kept[i] = narrow(wide(kept[i]) + wide(added[i]), kept[i])
            squares += wide(kept[i]) * wide(kept[i])
        scale = _ONE / np.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            normed[i] = narrow(wide(kept[i]) * scale * wide(weight[i]), kept[i])


@compiled
def add_layer_norm(hidden: Array, more: Array, weight: Array, bias: Array, eps: np.float32, output: Array) -> None:
    """hidden += more, output = its layer norm (arXiv 1607.06450); all [rows, hidden], weight and bias [hidden]."""
    if hidden.size < _SMALL:
        _add_layer_norm(FIRST, ALONE, hidden, more, weight, bias, eps, output)
    else:
        run_team(_add_layer_norm, (hidden, more, weight, bias, eps, output))


@compiled
def _add_layer_norm(
    thread: int, threads: int, hidden: Array, more: Array, weight: Array, bias: Array, eps: np.float32, output: Array
) -> None:
    size = hidden.shape[1]
    first, last = share(thread, threads, len(hidden))
    for row in range(first, last):
        kept, added, normed = hidden[row], more[row], output[row]
        total, squares = _ZERO, _ZERO
        for i in range(size):
            kept[i] = narrow(wide(kept[i]) + wide(added[i]), kept[i])
            total += wide(kept[i])
        mean = total / np.float32(size)
        for i in range(size):
            squares += (wide(kept[i]) - mean) * (wide(kept[i]) - mean)
        scale = _ONE / np.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            normed[i] = narrow((wide(kept[i]) - mean) * scale * wide(weight[i]) + wide(bias[i]), kept[i])


@compiled
def gelu(x: Array) -> None:
    """In place, x [rows, n] times the share of a normal distribution below it (arXiv 1606.08415), to 2e-7 of x."""
    if x.size < _SMALL:
        _gelu(FIRST, ALONE, x)
    else:
        run_team(_gelu, (x,))


@compiled
def _gelu(thread: int, threads: int, x: Array) -> None:
    first, last = share(thread, threads, x.shape[1])
    for row in range(len(x)):
        numbers = x[row, first:last]
        for i in range(len(numbers)):
            number = wide(numbers[i])
            place = _ONE / (_ONE + _ERF_PLACE * _ROOT_HALF * abs(number))
            a, b, c, d, e = _ERF
            series = ((((a * place + b) * place + c) * place + d) * place + e) * place
            beyond = _HALF * series * exp(-_HALF * number * number)
            numbers[i] = narrow(number * (beyond if number < _ZERO else _ONE - beyond), numbers[i])


@compiled
def silu_mul(gate_up: Array, output: Array) -> None:
    """gate_up [rows, 2 n] -> output [rows, n] = gate * sigmoid(gate) * up."""
    if output.size < _SMALL:
        _silu_mul(FIRST, ALONE, gate_up, output)
    else:
        run_team(_silu_mul, (gate_up, output))


@compiled
def _silu_mul(thread: int, threads: int, gate_up: Array, output: Array) -> None:
    rows, size = output.shape
    # Cut along the columns, which there are always enough of.
    first, last = share(thread, threads, size)
    for row in range(rows):
        gates, ups, products = (
            gate_up[row, first:last],
            gate_up[row, size + first : size + last],
            output[row, first:last],
        )
        for i in range(last - first):
            products[i] = narrow(silu(wide(gates[i])) * wide(ups[i]), gates[i])


@inlined
def silu(x: np.float32) -> np.float32:
    """x * sigmoid(x)."""
    result: np.float32 = x / (_ONE + exp(-x))
    return result
