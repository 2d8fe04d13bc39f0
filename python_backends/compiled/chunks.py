"""Attention of many rows as products of a few at a time, whose scores never leave the nearest cache.

Keys and values are laid out first as the plain records of `vectors.py`: of keys a record has 8 numbers of each of 16
keys, of values 8 values' numbers of 16. Arrays are of bfloat16 as in `numbers.py`: query and output [rows, heads,
size], keys and values [kv_heads, length, size].
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from python_backends.compiled.attention import softmax
from python_backends.compiled.numbers import Array, narrow
from python_backends.compiled.team import compiled, inlined, run_team, share
from python_backends.compiled.vectors import (
    PLAIN,
    RECORD_INPUTS,
    RECORD_OUTPUTS,
    ROW_BLOCKS,
    add_plain,
    put_sums,
    stack_array,
)

# So many rows are computed together.
MOST_ROWS = ROW_BLOCKS[-1]
_PAIR = 2 * RECORD_OUTPUTS
_BEGIN, _SUMS = stack_array(types.float32, 1, _PAIR), stack_array(types.float32, MOST_ROWS, _PAIR)
_ZERO, _NOTHING = np.float32(0), np.uint16(0)


@compiled
def padded(length: int) -> int:
    """So many keys have room for `length` of them: whole pairs of 16."""
    return (length + _PAIR - 1) // _PAIR * _PAIR


@compiled
def attend_chunk(
    query: Array, keys: Array, values: Array, start: int, window: int, scale: np.float32, packed: Array, scores: Array,
    weights: Array, output: Array,
) -> None:  # fmt: skip
    """Rows are of the tokens from `start` on; each sees itself and what is before it, with a window `window` in all.

    keys and values have `start` + rows tokens, and a multiple of 32 numbers in each head. Room: packed uint16 [2,
    kv_heads, padded length * size]; scores float32 and weights uint16 [threads, 12 * padded length].
    """
    _attend_rows(query, keys, values, start, 1, window, scale, packed, scores, weights, output)


@compiled
def attend_all(
    query: Array, keys: Array, values: Array, scale: np.float32, packed: Array, scores: Array, weights: Array,
    output: Array,
) -> None:  # fmt: skip
    """Every row sees every key. Arrays and room as in `attend_chunk`."""
    # As if each were the last of a text.
    _attend_rows(query, keys, values, keys.shape[1] - 1, 0, 0, scale, packed, scores, weights, output)


@compiled
def _attend_rows(
    query: Array, keys: Array, values: Array, start: int, later: int, window: int, scale: np.float32, packed: Array,
    scores: Array, weights: Array, output: Array,
) -> None:  # fmt: skip
    """Row i is of the token at `start` + `later` * i, and otherwise this is `attend_chunk`."""
    kv_heads, length, size = keys.shape
    room = padded(length)
    groups = packed[0].reshape(kv_heads, room // RECORD_OUTPUTS, size // RECORD_INPUTS, PLAIN)
    columns = packed[1].reshape(kv_heads, size // RECORD_OUTPUTS, room // RECORD_INPUTS, PLAIN)
    run_team(_pack, (keys, values, groups, columns))
    run_team(_attend, (query, groups, columns, start, later, window, scale, scores, weights, output))


@compiled
def _pack(thread: int, threads: int, keys: Array, values: Array, groups: Array, columns: Array) -> None:
    """groups [kv_heads, length / 16, size / 8, 128] = keys, columns [kv_heads, size / 16, length / 8, 128] = values."""
    kv_heads, length, _ = keys.shape
    units = groups.shape[1]
    first, last = share(thread, threads, kv_heads * units)
    for unit in range(first, last):
        head, group = unit // units, unit % units
        start = RECORD_OUTPUTS * group
        for key in range(min(RECORD_OUTPUTS, length - start)):
            _put_key(keys[head, start + key], 2 * key, groups[head, group])
        for record in range(start // RECORD_INPUTS, (start + RECORD_OUTPUTS) // RECORD_INPUTS):
            for row in range(RECORD_INPUTS):
                key, place = record * RECORD_INPUTS + row, row // 2 * _PAIR + row % 2
                if key < length:
                    _put_value(values[head, key], place, columns[head, :, record])
                else:
                    # Its weight is zero, but zero times what happens to be in memory may be NaN.
                    for column in columns[head, :, record]:
                        for i in range(RECORD_OUTPUTS):
                            column[place + 2 * i] = _NOTHING


@inlined
def _put_key(key: Array, place: int, records: Array) -> None:
    for record in range(len(records)):
        kept, given = records[record, place:], key[RECORD_INPUTS * record : RECORD_INPUTS * (record + 1)]
        for pair in range(RECORD_INPUTS // 2):
            kept[_PAIR * pair], kept[_PAIR * pair + 1] = given[2 * pair], given[2 * pair + 1]


@inlined
def _put_value(value: Array, place: int, records: Array) -> None:
    for group in range(len(records)):
        kept, given = records[group, place:], value[RECORD_OUTPUTS * group : RECORD_OUTPUTS * (group + 1)]
        for i in range(RECORD_OUTPUTS):
            kept[2 * i] = given[i]


@compiled
def _attend(
    thread: int, threads: int, query: Array, groups: Array, columns: Array, start: int, later: int,
    window: int, scale: np.float32, scores: Array, weights: Array, output: Array,
) -> None:  # fmt: skip
    rows, heads, size = query.shape
    shared = heads // len(groups)
    begin, sums = _BEGIN(), _SUMS()
    for i in range(_PAIR):
        begin[0, i] = _ZERO
    for unit in range(thread, heads * ((rows + MOST_ROWS - 1) // MOST_ROWS), threads):
        head, row = unit % heads, unit // heads * MOST_ROWS
        asking = query[row : row + MOST_ROWS, head]
        # Keys that some row sees, from and to a pair of 16.
        low = max(0, start + later * row - window + 1) // _PAIR * _PAIR if window else 0
        high = padded(start + later * (row + len(asking) - 1) + 1)
        found = scores[thread, : MOST_ROWS * (high - low)].reshape(MOST_ROWS, high - low)
        for key in range(low, high, _PAIR):
            panel = groups[head // shared, key // RECORD_OUTPUTS : key // RECORD_OUTPUTS + 2]
            add_plain(asking, panel, begin, found[:, key - low :])
        given = weights[thread, : len(asking) * (high - low)].reshape(len(asking), high - low)
        for i in range(len(asking)):
            end = start + later * (row + i) + 1
            _weigh(found[i], (max(0, end - window) if window else 0) - low, end - low, scale, given[i])
        for column in range(0, size, _PAIR):
            group = column // RECORD_OUTPUTS
            panel = columns[head // shared, group : group + 2, low // RECORD_INPUTS : high // RECORD_INPUTS]
            add_plain(given, panel, begin, sums)
            answer = output[row : row + len(asking), head]
            put_sums(sums[:, :RECORD_OUTPUTS], answer[:, column:])
            put_sums(sums[:, RECORD_OUTPUTS:], answer[:, column + RECORD_OUTPUTS :])


@inlined
def _weigh(scores: Array, first: int, last: int, scale: np.float32, weights: Array) -> None:
    """weights [keys] = the softmax of scale * scores [keys] from `first` to `last`, and zero beside them."""
    seen, given = scores[first:last], weights[first:last]
    for i in range(len(seen)):
        seen[i] *= scale
    softmax(seen)
    for i in range(len(seen)):
        given[i] = narrow(seen[i], _NOTHING)
    for i in range(first):
        weights[i] = _NOTHING
    after = weights[last:]
    for i in range(len(after)):
        after[i] = _NOTHING
