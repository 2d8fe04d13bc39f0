"""The OpenMP runtime that torch computes with on CPU, where torch itself has no word for it."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

# `omp_pause_hard` of OpenMP 5.0, section 3.2.44: threads may go, and come back when they are needed.
_PAUSE_HARD = 2


def end_team() -> None:
    """End the helper threads of the calling thread, which leaves the computing to another thread from now on.

    Every thread that computes gets helpers of its own, and they stay. GNU's runtime counts them all: when there are
    more than cores, none of them spins while it waits, and each operator has to wake somebody up.
    """
    for path in loaded_runtimes():
        with suppress(OSError, AttributeError):
            ctypes.CDLL(path).omp_pause_resource_all(_PAUSE_HARD)


def loaded_runtimes() -> set[str]:
    """Wheels bring libraries under names of their own."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "libgomp" in line}
