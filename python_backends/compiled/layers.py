"""What lies between the matrix products of a decoder layer. Arrays are of float32 or bfloat16, see `numbers.py`.

Loops run from 0 over slices: an index that is a sum might be negative, which Python allows, and vectors do not.
"""

from __future__ import annotations

import numpy as np

from python_backends.compiled.numbers import Array, exp, narrow, wide
from python_backends.compiled.team import ALONE, FIRST, compiled, inlined, run_team, share

# Fewer numbers than this are done before a second thread has begun.
_SMALL = 65536
_ZERO, _ONE = np.float32(0), np.float32(1)


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
