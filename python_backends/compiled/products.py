"""Products of a few or many rows with weights in 12 bits. Arrays of bfloat16 as in `numbers.py`.

Of the arguments: x [rows, in]; records, exponents, apart and starts of a `TwelveBits` weight [out, in]; bias [out] or
empty; output [rows, out], or of a gated product [rows, out / 2]. Outputs are computed in pairs of 16, one of the first
half of them and one of the second, because a gate and what passes it are in different halves.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from python_backends.compiled.layers import silu
from python_backends.compiled.numbers import Array, narrow, wide
from python_backends.compiled.team import compiled, inlined, run_team, share
from python_backends.compiled.twelve_bits import add_apart, put_apart
from python_backends.compiled.vectors import (
    PLAIN,
    RECORD_INPUTS,
    RECORD_OUTPUTS,
    ROW_BLOCKS,
    add_packed,
    add_plain,
    put_sums,
    stack_array,
    unpack,
)

_ROWS = ROW_BLOCKS[-1]
# Up to so many rows weights are unpacked for each block of rows anew, while they are in the nearest cache.
_FEW_ROWS = 8 * _ROWS
# Of many rows, what of the weights, the inputs and the sums is in use at once fits into the caches of one core.
_MANY_ROWS = 43 * _ROWS
_RECORDS, _PAIRS = 112, 4
_PAIR_SUMS = stack_array(types.float32, 2, _ROWS, RECORD_OUTPUTS)
_PANEL = stack_array(types.uint16, _PAIRS, 2, _RECORDS, PLAIN)
_PANEL_SUMS = stack_array(types.float32, _PAIRS, _MANY_ROWS, 2 * RECORD_OUTPUTS)
_ZERO = np.float32(0)


@compiled
def multiply(
    x: Array, records: Array, exponents: Array, apart: Array, starts: Array, bias: Array, is_gated: bool, output: Array
) -> None:
    """output = x times the weight, plus the bias; if gated, silu of its first half times its second half."""
    if len(x) <= _FEW_ROWS:
        run_team(_few_rows, (x, records, exponents, apart, starts, bias, is_gated, output))
        return
    for row in range(0, len(x), _MANY_ROWS):
        some = slice(row, min(row + _MANY_ROWS, len(x)))
        run_team(_many_rows, (x[some], records, exponents, apart, starts, bias, is_gated, output[some]))


@compiled
def _few_rows(
    thread: int, threads: int, x: Array, records: Array, exponents: Array, apart: Array, starts: Array, bias: Array,
    is_gated: bool, output: Array,
) -> None:  # fmt: skip
    sums = _PAIR_SUMS()
    half = len(records) // 2
    first, last = share(thread, threads, half)
    blocks = (len(x) + _ROWS - 1) // _ROWS
    for pair in range(first, last):
        for block in range(blocks):
            # Of equal size, and not a few after many.
            some = slice(len(x) * block // blocks, len(x) * (block + 1) // blocks)
            for side in range(2):
                group, found = pair + side * half, sums[side]
                _start(found, bias, RECORD_OUTPUTS * group)
                add_packed(x[some], records[group], exponents, found)
                add_apart(x[some], apart[starts[group] : starts[group + 1]], found)
            for row in range(some.start, some.stop):
                left, right = sums[0, row - some.start], sums[1, row - some.start]
                _finish(left, right, is_gated, RECORD_OUTPUTS * pair, RECORD_OUTPUTS * half, output[row])


@compiled
def _many_rows(
    thread: int, threads: int, x: Array, records: Array, exponents: Array, apart: Array, starts: Array, bias: Array,
    is_gated: bool, output: Array,
) -> None:  # fmt: skip
    panel, sums = _PANEL(), _PANEL_SUMS()
    half = len(records) // 2
    first, last = share(thread, threads, half)
    for pair in range(first, last, _PAIRS):
        pairs = min(_PAIRS, last - pair)
        _sum_panel(x, records, exponents, apart, starts, bias, pair, panel[:pairs], sums)
        for number in range(pairs):
            column = RECORD_OUTPUTS * (pair + number)
            for row in range(len(x)):
                left, right = sums[number, row, :RECORD_OUTPUTS], sums[number, row, RECORD_OUTPUTS:]
                _finish(left, right, is_gated, column, RECORD_OUTPUTS * half, output[row])


@compiled
def _sum_panel(
    x: Array, records: Array, exponents: Array, apart: Array, starts: Array, bias: Array, first: int, panel: Array,
    sums: Array,
) -> None:  # fmt: skip
    """sums [pairs, rows, 32] = x times the weights of the pairs from `first` on; `panel` is room for these."""
    half, rows = len(records) // 2, (len(x) + _ROWS - 1) // _ROWS * _ROWS
    for pair in range(len(panel)):
        _start(sums[pair, :rows, :RECORD_OUTPUTS], bias, RECORD_OUTPUTS * (first + pair))
        _start(sums[pair, :rows, RECORD_OUTPUTS:], bias, RECORD_OUTPUTS * (first + pair + half))
    for start in range(0, records.shape[1], _RECORDS):
        stop = min(start + _RECORDS, records.shape[1])
        for pair in range(len(panel)):
            for side in range(2):
                group, plain = first + pair + side * half, panel[pair, side, : stop - start]
                unpack(records[group, start:stop], exponents, plain)
                put_apart(apart[starts[group] : starts[group + 1]], start, plain)
        inputs = x[:, RECORD_INPUTS * start : RECORD_INPUTS * stop]
        for row in range(0, len(x), _ROWS):
            for pair in range(len(panel)):
                block = slice(row, row + _ROWS)
                add_plain(inputs[block], panel[pair], sums[pair, block])


@inlined
def _start(sums: Array, bias: Array, column: int) -> None:
    """sums [rows, 16] = the bias from `column` on; zeros where there is none."""
    for row in range(len(sums)):
        for i in range(RECORD_OUTPUTS):
            sums[row, i] = _ZERO
        for i in range(min(RECORD_OUTPUTS, len(bias) - column)):
            sums[row, i] = wide(bias[column + i])


@inlined
def _finish(left: Array, right: Array, is_gated: bool, column: int, half: int, output: Array) -> None:
    """Two times 16 sums of a row become outputs from `column` and from `half + column` on, or go through the gate."""
    if is_gated:
        for i in range(RECORD_OUTPUTS):
            gate, passed = wide(narrow(left[i], output[0])), wide(narrow(right[i], output[0]))
            left[i] = silu(gate) * passed
    else:
        _put(right, half + column, output)
    _put(left, column, output)


@inlined
def _put(sums: Array, column: int, output: Array) -> None:
    if column + RECORD_OUTPUTS <= len(output):
        put_sums(sums, output[column:])
    else:
        # What only fills up the last 16 has no place.
        for i in range(len(output) - column):
            output[column + i] = narrow(sums[i], output[0])
