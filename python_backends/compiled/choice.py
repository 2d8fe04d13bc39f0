"""The greatest of many numbers, for greedy decoding. Arrays as in `numbers.py`."""

from __future__ import annotations

import numpy as np

from python_backends.compiled.numbers import Array, bits, order
from python_backends.compiled.team import compiled, inlined, run_team, share

_MAGNITUDE, _INFINITY = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
_LEAST = np.int32(-(2**31))
# As many numbers are looked at together before asking whether one of them is greater than all before.
_BLOCK = 512


@compiled
def likeliest(logits: Array, tokens: Array) -> None:
    """logits [rows, vocabulary] -> tokens [rows] int64: the first of the greatest; -1 if that is not finite or one is
    NaN."""
    run_team(_likeliest, (logits, tokens))


@compiled
def _likeliest(thread: int, threads: int, logits: Array, tokens: Array) -> None:
    first, last = share(thread, threads, len(logits))
    for row in range(first, last):
        scores = logits[row]
        greatest, place, magnitude = _LEAST, 0, np.int32(0)
        for start in range(0, len(scores), _BLOCK):
            top, largest = _extremes(scores[start : start + _BLOCK])
            magnitude = max(magnitude, largest)
            if top > greatest:
                greatest, place = top, start
        while order(bits(scores[place])) != greatest:
            place += 1
        tokens[row] = place if -_INFINITY <= greatest < _INFINITY and magnitude <= _INFINITY else -1


@inlined
def _extremes(scores: Array) -> tuple[np.int32, np.int32]:
    """The greatest place in the order, and the greatest magnitude."""
    top, largest = _LEAST, np.int32(0)
    for i in range(len(scores)):
        top = max(top, order(bits(scores[i])))
        largest = max(largest, np.int32(bits(scores[i]) & _MAGNITUDE))
    return top, largest
