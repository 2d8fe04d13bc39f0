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
    AHEAD,
    PACKED_BYTES,
    PLAIN,
    RECORD_INPUTS,
    RECORD_OUTPUTS,
    ROW_BLOCKS,
    add_packed,
    add_packed_pair,
    add_plain_asking,
    put_sums,
    stack_array,
    unpack,
)

_ROWS = ROW_BLOCKS[-1]
# Up to so many rows weights are unpacked for each block of rows anew, while they are in the nearest cache.
_FEW_ROWS = 6 * _ROWS
# Of many rows, what of the weights, the inputs and the sums is in use at once fits into the caches of one core.
_MANY_ROWS = 43 * _ROWS
_RECORDS, _PAIRS = 112, 4
_PAIR_SUMS = stack_array(types.float32, _FEW_ROWS + _ROWS, 2 * RECORD_OUTPUTS)
_BEGIN = stack_array(types.float32, 1, 2 * RECORD_OUTPUTS)
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
    begin, sums = _BEGIN(), _PAIR_SUMS()
    half, size = len(records) // 2, records.shape[1] * PACKED_BYTES
    first, last = share(thread, threads, half)
    blocks = (len(x) + _ROWS - 1) // _ROWS
    # Two blocks are of equal size; of more, the last has what is left.
    block_rows = _ROWS if blocks > 2 else (len(x) + blocks - 1) // max(1, blocks)
    for pair in range(first, last):
        _start(bias, RECORD_OUTPUTS * pair, RECORD_OUTPUTS * half, begin[0])
        for block in range(blocks):
            some = slice(block_rows * block, min(block_rows * (block + 1), len(x)))
            found = sums[some.start : some.start + _ROWS]
            if blocks == 1:
                # Memory is the limit, and one after the other is read faster than two at once.
                for side in range(2):
                    group, column = pair + side * half, RECORD_OUTPUTS * side
                    one = records[group : group + 1]
                    add_packed(x, one, exponents, begin[:, column:], found[:, column:], AHEAD, PACKED_BYTES)
            else:
                # Each block asks for its part of the weights that follow.
                ahead = size + size * block // blocks
                add_packed_pair(x[some], records[pair::half], exponents, begin, found, ahead, PACKED_BYTES // blocks)
        for side in range(2):
            group = pair + side * half
            add_apart(x, apart[starts[group] : starts[group + 1]], sums[:, RECORD_OUTPUTS * side :])
        _finish(sums, is_gated, RECORD_OUTPUTS * pair, RECORD_OUTPUTS * half, output)


@compiled
def _many_rows(
    thread: int, threads: int, x: Array, records: Array, exponents: Array, apart: Array, starts: Array, bias: Array,
    is_gated: bool, output: Array,
) -> None:  # fmt: skip
    panel, begin, sums = _PANEL(), _BEGIN(), _PANEL_SUMS()
    half, blocks = len(records) // 2, (len(x) + _ROWS - 1) // _ROWS
    first, last = share(thread, threads, half)
    for pair in range(first, last, _PAIRS):
        pairs = min(_PAIRS, last - pair)
        for start in range(0, records.shape[1], _RECORDS):
            stop = min(start + _RECORDS, records.shape[1])
            for number in range(pairs):
                for side in range(2):
                    group, plain = pair + number + side * half, panel[number, side, : stop - start]
                    unpack(records[group, start:stop], exponents, plain)
                    put_apart(apart[starts[group] : starts[group + 1]], start, plain)
            inputs = x[:, RECORD_INPUTS * start : RECORD_INPUTS * stop]
            # While these are multiplied, memory is asked for the next ones.
            next_pair, next_start = (pair, stop) if stop < records.shape[1] else (pair + pairs, 0)
            size = PACKED_BYTES * min(_RECORDS, records.shape[1] - next_start)
            for block in range(blocks):
                rows = slice(_ROWS * block, _ROWS * (block + 1))
                for number in range(pairs):
                    found = sums[number, rows]
                    soon = records[min(next_pair + number, half - 1) :: half, next_start:]
                    if start == 0:
                        _start(bias, RECORD_OUTPUTS * (pair + number), RECORD_OUTPUTS * half, begin[0])
                    add_plain_asking(
                        inputs[rows], panel[number], found if start else begin, found, soon, size * block // blocks,
                        size // (blocks * (stop - start)),
                    )  # fmt: skip
        for number in range(pairs):
            _finish(sums[number], is_gated, RECORD_OUTPUTS * (pair + number), RECORD_OUTPUTS * half, output)


@inlined
def _start(bias: Array, column: int, half: int, begin: Array) -> None:
    """begin [32] = the bias of 16 outputs from `column` on and of 16 from `half + column` on, or zeros."""
    for i in range(2 * RECORD_OUTPUTS):
        begin[i] = _ZERO
    for i in range(min(RECORD_OUTPUTS, len(bias) - column)):
        begin[i] = wide(bias[column + i])
    for i in range(min(RECORD_OUTPUTS, len(bias) - half - column)):
        begin[RECORD_OUTPUTS + i] = wide(bias[half + column + i])


@inlined
def _finish(sums: Array, is_gated: bool, column: int, half: int, output: Array) -> None:
    """Sums [rows, 32] become outputs from `column` and from `half + column` on, or go through the gate."""
    if is_gated:
        for row in range(len(output)):
            left, right = sums[row, :RECORD_OUTPUTS], sums[row, RECORD_OUTPUTS:]
            for i in range(RECORD_OUTPUTS):
                gate, passed = wide(narrow(left[i], output[0, 0])), wide(narrow(right[i], output[0, 0]))
                left[i] = silu(gate) * passed
    else:
        _put(sums[:, RECORD_OUTPUTS:], half + column, output)
    _put(sums, column, output)


@inlined
def _put(sums: Array, column: int, output: Array) -> None:
    if column + RECORD_OUTPUTS <= output.shape[1]:
        put_sums(sums, output[:, column:])
    else:
        # What only fills up the last 16 has no place.
        for row in range(len(output)):
            for i in range(output.shape[1] - column):
                output[row, column + i] = narrow(sums[row, i], output[0, 0])
