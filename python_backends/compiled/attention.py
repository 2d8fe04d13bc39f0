"""Rotation of queries and keys, the KV cache, and attention of single tokens. Arrays as in `numbers.py`.

Of the arguments: query [rows, heads, head_dim]; keys, values [slots, kv_heads, max_len, head_dim]; slots, positions
[rows] int64, a row of slot -1 only pads the step.
"""

from __future__ import annotations

import numpy as np

from python_backends.compiled.numbers import Array, bits, exp, narrow, number, order, wide
from python_backends.compiled.team import ALONE, FIRST, compiled, inlined, run_team, share

_SMALL = 65536
_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST = np.int32(-(2**31))


@compiled
def rotate_and_store(
    heads: Array, cos: Array, sin: Array, norms: Array, eps: np.float32, keys: Array, values: Array,
    slots: Array, positions: Array, query: Array,
) -> None:  # fmt: skip
    """heads [rows, heads + 2 kv_heads, head_dim] are queries, keys and values of a step, cos and sin [rows, head_dim].

    Each pair (x_i, x_{i + d/2}) of queries and keys is turned (arXiv 2104.09864), after the norm of each head where
    `norms` [2, head_dim], of queries and of keys, is not empty. Keys and values go to the cache, queries to `query`.
    """
    if heads.size < _SMALL:
        _rotate_and_store(FIRST, ALONE, heads, cos, sin, norms, eps, keys, values, slots, positions, query)
    else:
        run_team(_rotate_and_store, (heads, cos, sin, norms, eps, keys, values, slots, positions, query))


@compiled
def _rotate_and_store(
    thread: int, threads: int, heads: Array, cos: Array, sin: Array, norms: Array, eps: np.float32, keys: Array,
    values: Array, slots: Array, positions: Array, query: Array,
) -> None:  # fmt: skip
    num_queries, kv_heads, half = query.shape[1], keys.shape[1], query.shape[2] // 2
    first, last = share(thread, threads, len(heads))
    for row in range(first, last):
        slot, position = slots[row], positions[row]
        for head in range(num_queries):
            _turn(heads[row, head], cos[row], sin[row], norms[:1], eps, query[row, head])
        if slot < 0:
            continue
        for head in range(kv_heads):
            key, value = heads[row, num_queries + head], heads[row, num_queries + kv_heads + head]
            _turn(key, cos[row], sin[row], norms[1:], eps, keys[slot, head, position])
            for i in range(2 * half):
                values[slot, head, position, i] = value[i]


@inlined
def _turn(x: Array, cos: Array, sin: Array, norm: Array, eps: np.float32, output: Array) -> None:
    """One head [head_dim]; `norm` is empty or [1, head_dim]."""
    half = len(x) // 2
    low, high, turned_low, turned_high = x[:half], x[half:], output[:half], output[half:]
    cos_low, cos_high, sin_low, sin_high = cos[:half], cos[half:], sin[:half], sin[half:]
    if len(norm):
        scale = _ONE / np.sqrt(_mean_square(x) + eps)
        weight_low, weight_high = norm[0, :half], norm[0, half:]
        for i in range(half):
            a, b = wide(low[i]) * scale * wide(weight_low[i]), wide(high[i]) * scale * wide(weight_high[i])
            turned_low[i] = narrow(a * wide(cos_low[i]) - b * wide(sin_low[i]), x[0])
            turned_high[i] = narrow(b * wide(cos_high[i]) + a * wide(sin_high[i]), x[0])
    else:
        for i in range(half):
            a, b = wide(low[i]), wide(high[i])
            turned_low[i] = narrow(a * wide(cos_low[i]) - b * wide(sin_low[i]), x[0])
            turned_high[i] = narrow(b * wide(cos_high[i]) + a * wide(sin_high[i]), x[0])


@inlined
def _mean_square(x: Array) -> np.float32:
    squares = _ZERO
    for i in range(len(x)):
        squares += wide(x[i]) * wide(x[i])
    return squares / np.float32(len(x))


@compiled
def attend_tokens(
    query: Array, keys: Array, values: Array, slots: Array, positions: Array, window: int, scale: np.float32,
    room: Array, output: Array,
) -> None:  # fmt: skip
    """One token of each sequence attends to itself and what is before it, with a window to `window` tokens in all.

    output [rows, heads, head_dim]; `window` is 0 if there is none; `room` [threads, heads / kv_heads * (2 head_dim
    + longest)] float32 is for what lies between.
    """
    run_team(_attend_tokens, (query, keys, values, slots, positions, window, scale, room, output))


@compiled
def _attend_tokens(
    thread: int, threads: int, query: Array, keys: Array, values: Array, slots: Array, positions: Array, window: int,
    scale: np.float32, room: Array, output: Array,
) -> None:  # fmt: skip
    rows, heads, size = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    small = group * size
    wanted, sums = room[thread, :small].reshape(group, size), room[thread, small : 2 * small].reshape(group, size)
    for unit in range(thread, rows * kv_heads, threads):
        row, head = unit // kv_heads, unit % kv_heads
        end = positions[row] + 1
        start = max(0, end - window) if window else 0
        scores = room[thread, 2 * small : 2 * small + group * (end - start)].reshape(group, end - start)
        asking, answer = query[row, head * group : (head + 1) * group], output[row, head * group : (head + 1) * group]
        for i in range(group):
            for j in range(size):
                wanted[i, j] = wide(asking[i, j]) * scale
                sums[i, j] = _ZERO
        _scores(wanted, keys[slots[row], head, start:end], scores)
        for i in range(group):
            softmax(scores[i])
        _weighted_sum(scores, values[slots[row], head, start:end], sums)
        for i in range(group):
            for j in range(size):
                answer[i, j] = narrow(sums[i, j], asking[i, j])


@inlined
def _scores(query: Array, keys: Array, scores: Array) -> None:
    """query [group, head_dim] float32, keys [length, head_dim] -> scores [group, length]."""
    fours = len(keys) // 4 * 4
    # Four keys for each number of the query that is read: twice as fast.
    for place in range(0, fours, 4):
        one, two, three, four = keys[place], keys[place + 1], keys[place + 2], keys[place + 3]
        for i in range(len(query)):
            a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO
            for j in range(query.shape[1]):
                x = query[i, j]
                a += x * wide(one[j])
                b += x * wide(two[j])
                c += x * wide(three[j])
                d += x * wide(four[j])
            scores[i, place], scores[i, place + 1], scores[i, place + 2], scores[i, place + 3] = a, b, c, d
    for place in range(fours, len(keys)):
        one = keys[place]
        for i in range(len(query)):
            a = _ZERO
            for j in range(query.shape[1]):
                a += query[i, j] * wide(one[j])
            scores[i, place] = a


@inlined
def softmax(scores: Array) -> None:
    """In place, of [length]."""
    place = _LEAST
    for i in range(len(scores)):
        place = max(place, order(bits(scores[i])))
    greatest, total = number(order(place)), _ZERO
    for i in range(len(scores)):
        scores[i] = exp(scores[i] - greatest)
        total += scores[i]
    factor = _ONE / total
    for i in range(len(scores)):
        scores[i] *= factor


@inlined
def _weighted_sum(weights: Array, values: Array, sums: Array) -> None:
    """weights [group, length or more], values [length, head_dim] -> sums [group, head_dim]."""
    fours = len(values) // 4 * 4
    for place in range(0, fours, 4):
        one, two, three, four = values[place], values[place + 1], values[place + 2], values[place + 3]
        for i in range(len(sums)):
            a, b, c, d = weights[i, place], weights[i, place + 1], weights[i, place + 2], weights[i, place + 3]
            total = sums[i]
            for j in range(len(total)):
                total[j] += a * wide(one[j]) + b * wide(two[j]) + c * wide(three[j]) + d * wide(four[j])
    for place in range(fours, len(values)):
        one = values[place]
        for i in range(len(sums)):
            a, total = weights[i, place], sums[i]
            for j in range(len(total)):
                total[j] += a * wide(one[j])


@compiled
def store_tokens(new: Array, places: Array, positions: Array) -> None:
    """new [rows, heads, head_dim] -> places [rows or more, heads, max_len, head_dim], each row at its position."""
    for row in range(len(new)):
        for head in range(new.shape[1]):
            kept, given = places[row, head, positions[row]], new[row, head]
            for i in range(len(given)):
                kept[i] = given[i]


@compiled
def softmax_seen(scores: Array, rows: int, position: int, window: int, room: Array) -> None:
    """In place, of scores [n * rows, length]: row i, of the token at `position` + i % rows, sees itself and what is
    before it, with a window `window` tokens in all, and gives 0 to the others. room [threads, length] float32."""
    run_team(_softmax_seen, (scores, rows, position, window, room))


@compiled
def _softmax_seen(thread: int, threads: int, scores: Array, rows: int, position: int, window: int, room: Array) -> None:
    first, last = share(thread, threads, len(scores))
    for row in range(first, last):
        end = position + row % rows + 1
        start = max(0, end - window) if window else 0
        given, exact = scores[row], room[thread, : end - start]
        seen = given[start:end]
        for i in range(end - start):
            exact[i] = wide(seen[i])
        softmax(exact)
        for i in range(end - start):
            seen[i] = narrow(exact[i], given[0])
        _clear(given[:start])
        _clear(given[end:])


@inlined
def _clear(numbers: Array) -> None:
    for i in range(len(numbers)):
        numbers[i] = narrow(_ZERO, numbers[i])
