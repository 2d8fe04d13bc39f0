"""What a choice of tokens needs of the scores of a whole vocabulary. Arrays as in `numbers.py`."""

from __future__ import annotations

import numpy as np

from python_backends.compiled.numbers import Array, bits, exp, number, order, wide
from python_backends.compiled.team import compiled, run_team, share

_LEAST, _ZERO = np.int32(-(2**31)), np.float32(0)


@compiled
def log_sums(scores: Array, sums: Array) -> None:
    """sums [rows] float32 = log of the sum of e^score, of scores [rows, vocabulary]; NaN where all are -inf."""
    run_team(_log_sums, (scores, sums))


@compiled
def _log_sums(thread: int, threads: int, scores: Array, sums: Array) -> None:
    first, last = share(thread, threads, len(scores))
    for row in range(first, last):
        given, place, total = scores[row], _LEAST, _ZERO
        for i in range(len(given)):
            place = max(place, order(bits(given[i])))
        greatest = number(order(place))
        for i in range(len(given)):
            total += exp(wide(given[i]) - greatest)
        sums[row] = greatest + np.log(total)
